import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from contract.requestlog import REQUEST_LOG
from contract.wire import RankRequest
from preparation.served import read_served
from preparation.settings import make_settings as preparation_settings
from service.request_log import Limits, RequestLog
from tests.service.answers import make_served
from tests.service.conftest import Store
from tests.service.many import many
from tests.service.running import Running, make_settings, running, wait_until

SOON = Limits(gather_s=0.01, file_s=0.05)


class Log(RequestLog):
    """A request log that keeps what it counted."""

    def __init__(self, folder: Path, rate: float = 1.0, limits: Limits | None = None) -> None:
        self.counted: Counter[str] = Counter()
        super().__init__(folder, "qin", rate, lambda outcome, number: self.counted.update({outcome: number}), limits)


def read(folder: Path) -> pa.Table:
    """All that readers find in a folder."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(tables) if tables else REQUEST_LOG.empty_table()


def metric(service: Running, name: str) -> float:
    lines = [line.rpartition(" ") for line in service.http.get("/metrics").text.splitlines()]
    return {key: float(value) for key, _, value in lines if not key.startswith("#")}[name]


def test_what_was_served_is_logged_as_it_was_used(store: Store, stocked_url, tmp_path: Path):
    """A row for each user, with history, levels and scores as they were; preparation reads it."""
    folder = tmp_path / "log"
    given = make_settings(store.folder, stocked_url, request_log_dir=folder, request_log_rate=1)
    before = datetime.now(UTC)
    with running(given) as service:
        service.client.put_history(7, [*range(1, 41), 5000])
        one = service.client.rank(7, [3, 4, 5000])
        asked = [RankRequest(8, [5], history=[6], likes_level=[9]), RankRequest(9, [6, 7], views_level=[1, 2])]
        several = service.client.rank_many(asked)
        history_length = service.replica.registry.serving.scorer.features.history_length
    table = read(folder)
    assert table.schema.equals(REQUEST_LOG)
    rows = sorted(table.to_pylist(), key=lambda row: row["user_id"])
    assert [row["user_id"] for row in rows] == [7, 8, 9]
    assert {(row["model"], row["version"]) for row in rows} == {("qin", store.new.name)}
    assert rows[0]["candidates"] == [3, 4, 5000]
    assert rows[0]["history"] == [item for item in [*range(1, 41), 5000][-history_length:] if item]
    assert rows[0]["likes_level"] == [3, 4, 0]
    assert rows[0]["views_level"] == [9, 12 % 11, 0]
    assert (rows[1]["history"], rows[1]["likes_level"]) == ([6], [9])
    assert (rows[2]["history"], rows[2]["views_level"]) == ([], [1, 2])
    for row, answer in zip(rows, [one, *several], strict=True):
        np.testing.assert_allclose(row["scores"], answer.scores, rtol=1e-6)
        assert before - timedelta(seconds=1) < row["time"] < datetime.now(UTC) + timedelta(seconds=1)
    assert rows[1]["request_id"] == rows[2]["request_id"] != rows[0]["request_id"]
    served, num_degraded = read_served(sorted(folder.iterdir()), np.arange(6000), preparation_settings())
    assert (sorted(served.user.tolist()), len(served.item), num_degraded) == ([7, 8, 9], 6, 0)


def test_a_sample_is_of_the_rate_that_was_asked_for(tmp_path: Path):
    """Whole requests are taken or left."""
    log = Log(tmp_path, rate=0.25)
    for number in range(2000):
        log.note(make_served(1, 1, request_id=f"r{number}"))
    log.close()
    users = Counter(read(tmp_path)["request_id"].to_pylist())
    assert set(users.values()) == {2}
    assert 400 < len(users) < 600
    assert log.counted == {"written": 2 * len(users)}


def test_files_end_when_they_are_large_enough(tmp_path: Path):
    """By rows or by bytes; together they hold every row once, and none is seen half written."""
    for name, limits in (
        ("rows", Limits(gather_s=0, file_rows=10)),
        ("bytes", Limits(gather_s=0, group_bytes=5000, file_bytes=20_000)),
    ):
        log = Log(tmp_path / name, limits=limits)
        for number in range(100):
            log.note(make_served(100, request_id=f"r{number}"))
        log.close()
        assert len(list((tmp_path / name).glob("*.parquet"))) > 3
        assert sorted(read(tmp_path / name)["request_id"].to_pylist()) == sorted(f"r{n}" for n in range(100))
        assert [path for path in (tmp_path / name).iterdir() if path.suffix != ".parquet"] == []


def test_a_file_appears_soon_though_little_comes(tmp_path: Path):
    """One answer is enough, once its time is over."""
    log = Log(tmp_path, limits=SOON)
    try:
        log.note(make_served(3, degraded=("history",)))
        wait_until(lambda: len(read(tmp_path)) == 1)
    finally:
        log.close()
    assert read(tmp_path)["degraded"].to_pylist() == [["history"]]


def test_what_is_too_much_to_wait_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While the thread cannot keep up, no more than so much memory is held; afterwards all goes on."""
    goes_on = threading.Event()
    gather = RequestLog._gather

    def waiting(log: RequestLog) -> tuple[list[object], bool]:
        goes_on.wait(60)
        return gather(log)

    monkeypatch.setattr(RequestLog, "_gather", waiting)
    for number, num_candidates in enumerate((1, 100, 1000)):
        goes_on.clear()
        log = Log(tmp_path / str(number), limits=Limits(waiting_bytes=2**20))
        tracemalloc.start()
        for user in range(1500):
            log.note(make_served(num_candidates, user_id=user))
        held_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert 2**19 < held_bytes < 2**21
        dropped = log.counted["dropped"]
        assert dropped > 500
        goes_on.set()
        log.close()
        assert log.counted == {"dropped": dropped, "written": 1500 - dropped}


FULL = """
import resource, signal, sys
from pathlib import Path
from collections import Counter
from service.request_log import Limits, RequestLog
from tests.service.answers import make_served

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
counted = Counter()
log = RequestLog(Path(sys.argv[1]), "qin", 1, lambda outcome, n: counted.update({outcome: n}), Limits(gather_s=0))
for number in range(20):
    log.note(make_served(4096, seed=number))
log.close()
print("counted", dict(counted), sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


def test_a_disk_that_is_full_costs_rows_and_nothing_else(tmp_path: Path):
    """What does not fit is counted and leaves nothing behind."""
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "log"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["counted {'failed': 20} []"], done.stderr


def test_a_folder_that_cannot_be_written_hurts_no_rank(store: Store, stocked_url, tmp_path: Path):
    """Answers come as always, the loss is counted and said once; when the folder can be written, so are the rows."""
    folder = tmp_path / "log"
    folder.write_text("in the way")
    options = {"request_log_dir": folder, "request_log_rate": 1, "request_log_file_s": 0.05}
    with running(make_settings(store.folder, stocked_url, **options)) as service:
        assert len(service.client.rank(1, [1, 2]).scores) == 2
        wait_until(lambda: metric(service, 'qin_request_log_rows_total{outcome="failed"}') == 1)
        folder.unlink()
        service.client.rank(2, [1, 2])
        wait_until(lambda: metric(service, 'qin_request_log_rows_total{outcome="written"}') == 1)
    assert read(folder)["user_id"].to_pylist() == [2]


def test_a_trouble_that_lasts_is_said_once(tmp_path: Path):
    """Every loss is counted; the log tells when it begins and when it is over."""
    (tmp_path / "log").write_text("in the way")
    with capture_logs() as logged:
        log = Log(tmp_path / "log", limits=SOON)
        for number in range(3):
            log.note(make_served(1))
            wait_until(lambda number=number: log.counted["failed"] == number + 1)
        (tmp_path / "log").unlink()
        log.note(make_served(1))
        log.close()
    assert log.counted == {"failed": 3, "written": 1}
    assert [line["event"] for line in logged] == [
        "the request log cannot be written",
        "the request log is written again",
    ]


def test_an_answer_that_cannot_be_written_does_not_end_the_log(tmp_path: Path):
    """It is counted as failed; what follows is written."""
    log = Log(tmp_path, limits=SOON)
    served = make_served(3)
    log.note(replace(served, rankings=[replace(served.rankings[0], levels=np.zeros(3, dtype=np.int64))]))
    wait_until(lambda: log.counted["failed"] == 1)
    log.note(make_served(2, request_id="after"))
    log.close()
    assert read(tmp_path)["request_id"].to_pylist() == ["after"]


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path):
    """Half a file is passed over by readers, and is gone when the next one is begun a day later."""
    old, recent = (tmp_path / f".{name}.parquet.tmp" for name in ("old", "recent"))
    for path in (old, recent):
        path.write_bytes(b"PAR1")
    yesterday = time.time() - 100_000
    os.utime(old, (yesterday, yesterday))
    log = Log(tmp_path)
    log.note(make_served(1))
    log.close()
    assert not old.exists()
    assert recent.exists()
    assert len(read(tmp_path)) == 1


def test_what_another_process_removes_first_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two that begin a file at once find the same one that was left, and one of them is too late."""
    (left := tmp_path / ".old.parquet.tmp").write_bytes(b"PAR1")
    glob = Path.glob

    def found_and_gone(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        left.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "glob", found_and_gone)
    log = Log(tmp_path)
    log.note(make_served(1))
    log.close()
    assert log.counted == {"written": 1}


def test_each_worker_writes_files_of_its_own(store: Store, stocked_url, tmp_path: Path):
    """SIGTERM flushes them all; together they hold what all of them served."""
    folder = tmp_path / "rows"
    options = {"request_log_dir": folder, "request_log_rate": 1.0}
    with many(tmp_path, store=store.folder, redis_url=stocked_url, **options) as service:
        service.wait_whole()
        for user, name in enumerate(sorted(service.workers())):
            with service.client_of(name) as client:
                client.post("/v1/rank", json={"user_id": user, "candidates": [1, 2]}).raise_for_status()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
    names = [path.name for path in folder.iterdir()]
    assert all(any(f"-{worker}-" in name for name in names) for worker in ("worker-1", "worker-2")), names
    assert sorted(read(folder)["user_id"].to_pylist()) == [0, 1]
