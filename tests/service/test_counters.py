import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.mmap_dict import MmapedDict

from service.counters import forget_gauges, shared_folder
from service.metrics import Metrics
from service.score_counts import ScoreCounts

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


def test_a_process_that_has_just_begun_to_count_keeps_nobody_from_reading(temporary: Path):
    """Its files are empty for a moment: they count for nothing then."""
    with shared_folder() as folder:
        count(folder, "worker-1", 3)
        for kind in ("counter", "histogram", "gauge_livesum"):
            (folder / f"{kind}_worker-2.db").touch()
        (folder / "scores" / "v1" / "worker-2").touch()
        assert "qin_candidates_total 3.0" in lines_of(folder)
        count(folder, "worker-2", 4)
        assert "qin_candidates_total 7.0" in lines_of(folder)


def test_files_that_vanish_while_they_are_read_are_no_failure(temporary: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever clears temporary folders may come at any moment; what is left is told."""
    with shared_folder() as folder:
        count(folder, "worker-1", 3)
        count(folder, "worker-2", 4)
        read = MmapedDict.read_all_values_from_file

        def read_after_it_went(path: str) -> Any:
            (folder / "counter_worker-1.db").unlink(missing_ok=True)
            return read(path)

        monkeypatch.setattr(MmapedDict, "read_all_values_from_file", staticmethod(read_after_it_went))
        assert "qin_candidates_total 4.0" in lines_of(folder)


def test_scores_are_read_while_versions_come_and_go(tmp_path: Path):
    """A folder that another process removes amid the look counts for nothing."""
    scores, stop = ScoreCounts(tmp_path), threading.Event()
    writing = ScoreCounts(tmp_path, "worker-1")

    def forget() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            writing.count(f"v{number}", np.array([0.5], np.float32))

    with ThreadPoolExecutor(1) as pool:
        forgetting = pool.submit(forget)
        try:
            for _ in range(500):
                list(scores.collect())
        finally:
            stop.set()
        forgetting.result()
