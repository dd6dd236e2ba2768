import re
import subprocess
import sys


def test_the_demo_tells_its_whole_story() -> None:
    """`qin demo` trains, serves, changes, retrains and swaps without a failed request, and says so."""
    done = subprocess.run(
        [sys.executable, "-m", "qin", "demo"], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    assert [int(number) for number in re.findall(r"(\d+)\. [A-Z]", told)] == list(range(1, 12))
    assert re.search(r"requests answered \(.*\), 0 failed", told)
    for auc, possible in re.findall(r"AUC (0\.\d+) of (0\.\d+) possible", told):
        assert 0.70 < float(auc) < float(possible)
