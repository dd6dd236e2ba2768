import subprocess
import sys
from pathlib import Path

import pytest

from service.counters import shared_folder
from service.metrics import Metrics

COUNT = """
import os, signal, sys
from pathlib import Path
from service.counters import count_in
from service.metrics import Metrics

folder, name, number = sys.argv[1:]
count_in(Path(folder), name)
metrics = Metrics(Path(folder))
metrics.candidates.inc(int(number))
metrics.requests.labels("/", "GET", "200").inc()
metrics.rank_seconds.observe(0.004)
metrics.serving("qin", "v1", "cpu", {})
os.kill(os.getpid(), signal.SIGKILL)
"""


def count(folder: Path, name: str, number: int) -> None:
    """Count in a process of its own, which is killed right afterwards."""
    done = subprocess.run([sys.executable, "-c", COUNT, folder, name, str(number)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-9, "")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_counts_are_summed_and_outlive_who_counted(temporary: Path):
    """What killed processes counted is kept, and one of the same name goes on where the last one ended."""
    with shared_folder() as folder:
        for name, number in (("worker-1", 3), ("worker-2", 4), ("worker-1", 5)):
            count(folder, name, number)
        lines = Metrics(folder).text().decode().splitlines()
        assert "qin_candidates_total 12.0" in lines
        assert 'qin_requests_total{method="GET",route="/",status="200"} 3.0' in lines
        assert 'qin_rank_seconds_bucket{le="0.003"} 0.0' in lines
        assert 'qin_rank_seconds_bucket{le="0.005"} 3.0' in lines
        assert "qin_rank_seconds_count 3.0" in lines
        assert not [line for line in lines if line.startswith("qin_serving{")]
        assert len(list(folder.glob("*worker-1*"))) == 2


def test_a_folder_that_a_killed_service_left_is_removed(temporary: Path):
    """The next service clears up; the folder of one that runs is left alone, and its own is gone at its end."""
    left = temporary / "qin-metrics-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "counter_owner.db").touch()
    with shared_folder() as running:
        assert not left.exists()
        with shared_folder() as folder:
            assert running.exists()
        assert not folder.exists()
    assert list(temporary.iterdir()) == []
