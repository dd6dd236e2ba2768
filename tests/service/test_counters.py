import subprocess
import sys
from pathlib import Path

import pytest

from service.counters import forget_gauges, shared_folder
from service.metrics import Metrics

COUNT = """
import os, signal, sys
from pathlib import Path
from service.counters import count_in
from service.metrics import Metrics
from tests.service.answers import make_served

folder, name, number, version = sys.argv[1:]
count_in(Path(folder), name)
metrics = Metrics(Path(folder))
metrics.rank.note(make_served(int(number), version=version))
metrics.rank.queue(int(number))
metrics.requests.labels("/", "GET", "200").inc()
os.kill(os.getpid(), signal.SIGKILL)
"""


def count(folder: Path, name: str, number: int, version: str = "v1") -> None:
    """Count in a process of its own, which is killed right afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, folder, name, str(number), version], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (-9, "")


def lines_of(folder: Path) -> list[str]:
    """The metrics of all that count in a folder."""
    return Metrics(folder).text().decode().splitlines()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_counts_are_summed_and_outlive_who_counted(temporary: Path):
    """What killed processes counted is kept, and one of the same name goes on where the last one ended."""
    with shared_folder() as folder:
        for name, number in (("worker-1", 3), ("worker-2", 4), ("worker-1", 5)):
            count(folder, name, number)
        lines = lines_of(folder)
        assert "qin_candidates_total 12.0" in lines
        assert 'qin_requests_total{method="GET",route="/",status="200"} 3.0' in lines
        assert 'qin_rank_stage_seconds_bucket{le="0.003",stage="score"} 0.0' in lines
        assert 'qin_rank_stage_seconds_bucket{le="0.005",stage="score"} 3.0' in lines
        assert "qin_rank_seconds_count 3.0" in lines
        assert 'qin_score_count{version="v1"} 12.0' in lines
        assert not [line for line in lines if line.startswith("qin_serving{")]


def test_what_waits_is_summed_over_those_that_live(temporary: Path):
    """The candidates under way in a process count until it is buried, and anew from its next start."""
    with shared_folder() as folder:
        for name, number in (("worker-1", 300), ("worker-2", 4)):
            count(folder, name, number)
        assert "qin_queued_candidates 304.0" in lines_of(folder)
        forget_gauges(folder, "worker-1")
        assert "qin_queued_candidates 4.0" in lines_of(folder)
        count(folder, "worker-1", 20)
        assert "qin_queued_candidates 24.0" in lines_of(folder)


def test_scores_of_versions_that_are_gone_are_forgotten(temporary: Path):
    """Each process keeps the versions that it counted last, whether it counted them in one life or in many."""
    with shared_folder() as folder:
        for number in range(1, 8):
            count(folder, "worker-1", 2, f"v{number}")
        count(folder, "worker-2", 5, "v7")
        found = [line for line in lines_of(folder) if line.startswith("qin_score_count")]
        assert found == [
            f'qin_score_count{{version="v{number}"}} {7 if number == 7 else 2}.0' for number in (4, 5, 6, 7)
        ]
        assert sorted(path.name for path in (folder / "scores").iterdir()) == ["v4", "v5", "v6", "v7"]


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
