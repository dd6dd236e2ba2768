import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loadtest.conftest import Loaded
from tests.loadtest.servers import answer, scripted

_ROOT = Path(__file__).parents[2]
_SMALL = ("--rate", "40", "--duration", "1", "--warmup", "0", "--candidates", "10", "--item-ids", "0-99")


def _qin(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QIN_")}
    command = [sys.executable, "-m", "qin", "loadtest", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
        timeout=120,
        env={**environment, "COLUMNS": "200"},
    )


def test_a_load_that_keeps_to_its_slo_ends_with_status_0(loaded: Loaded, folder: Path) -> None:
    """The table is printed and the report written."""
    done = _qin("--url", loaded.url, *_SMALL, "--slo", "p99=10s", "--report", str(folder))
    assert done.returncode == 0, done.stderr
    assert "held" in done.stdout
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "samples.npz"}


def test_a_load_that_breaks_its_slo_ends_with_status_1(loaded: Loaded) -> None:
    """Nothing is wrong with the call."""
    done = _qin("--url", loaded.url, *_SMALL, "--slo", "p50=1us")
    assert done.returncode == 1, done.stderr
    assert "broken" in done.stdout


@pytest.mark.parametrize(
    "wrong", [("--slo", "p98=1ms"), ("--candidates", "many"), ("--rate", "fast"), ("--scenario", "storm")]
)
def test_a_wrong_call_ends_with_status_2(loaded: Loaded, wrong: tuple[str, str]) -> None:
    """What was wrong is one readable message."""
    done = _qin("--url", loaded.url, *_SMALL, *wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr or wrong[1] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_that_is_not_there_ends_with_status_2() -> None:
    """No SLO is said to be broken where nothing was measured."""
    with scripted() as server:
        url = server.url
    done = _qin("--url", url, *_SMALL)
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_something_else_that_listens_ends_with_status_2() -> None:
    """A server that knows no metrics is no service of ours."""

    async def refuse(_number: int, writer: object) -> None:
        writer.write(answer(b"nothing here", "404 Not Found"))  # type: ignore[attr-defined]

    with scripted(refuse) as server:
        assert _qin("--url", server.url, *_SMALL).returncode == 2


def test_locust_ranks_without_a_failure(loaded: Loaded, tmp_path: Path) -> None:
    """The users and the ramp run headless as documented, and leave their tables and page."""
    files = ",".join(str(_ROOT / "loadtest" / name) for name in ("locustfile.py", "locust_ramp.py"))
    locust = Path(sys.executable).with_name("locust")
    outputs = ("--csv", str(tmp_path / "out"), "--html", str(tmp_path / "out.html"))
    done = subprocess.run(
        [
            *(locust, "-f", files, "--headless", "-H", loaded.url, "-u", "4", "-r", "4", "-t", "4s"),
            *("--item-ids", "0-99", "--candidates", "10", *outputs),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert int(rows["/v1/rank"]["Request Count"]) > 0
    assert int(rows["/v1/rank"]["Failure Count"]) == 0
    assert (tmp_path / "out.html").stat().st_size > 0
