import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from service.embedded import EmbeddedValkey, running_or_own
from service.errors import DataFolderError
from service.valkey_process import socket_path
from tests.service.catalogue import NUM_ITEMS, make_records, store_items
from tests.service.conftest import Store
from tests.service.running import make_settings, running, wait_until


def connected(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2)


def start_in_another_process(folder: Path) -> "subprocess.Popen[str]":
    """Start an owner that says when its Valkey answers, then waits."""
    code = (
        "import sys, pathlib; from service.embedded import EmbeddedValkey\n"
        f"valkey = EmbeddedValkey.start(pathlib.Path({str(folder)!r}))\n"
        "print('PID', valkey.pid, flush=True); sys.stdin.read()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture
def owner(tmp_path: Path):
    """A process that owns `tmp_path / data`, and the PID of its Valkey."""
    with start_in_another_process(tmp_path / "data") as process:
        valkey_pid = next(int(line.split()[1]) for line in process.stdout if line.startswith("PID"))
        yield process, valkey_pid
        process.kill()
        process.wait()
        if is_alive(valkey_pid):
            os.kill(valkey_pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_what_was_written_is_there_after_a_restart(tmp_path: Path):
    """Data survives stopping and starting; the folder is private and nothing listens on TCP."""
    folder = tmp_path / "deep" / "data"
    valkey = EmbeddedValkey.start(folder)
    with connected(valkey.url) as client:
        client.set("a", "b")
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("appendfsync")["appendfsync"] == "everysec"
    valkey.stop()
    assert not is_alive(valkey.pid)
    assert folder.stat().st_mode & 0o777 == 0o700
    valkey = EmbeddedValkey.start(folder)
    with connected(valkey.url) as client:
        assert client.get("a") == b"b"
    valkey.stop()


def test_a_folder_has_one_owner(tmp_path: Path, owner):
    """A second owner is refused, and told the first one's PID."""
    process, _ = owner
    with pytest.raises(DataFolderError, match=rf"data is in use by process {process.pid}$"):
        EmbeddedValkey.start(tmp_path / "data")


def test_data_survives_a_killed_owner(tmp_path: Path, owner):
    """The next owner ends the Valkey that a killed one left, and finds what was written to it."""
    process, valkey_pid = owner
    with connected(f"unix://{socket_path(tmp_path / 'data')}") as client:
        client.set("a", "b")
    process.kill()
    process.wait()
    assert is_alive(valkey_pid)
    valkey = EmbeddedValkey.start(tmp_path / "data")
    wait_until(lambda: not is_alive(valkey_pid))
    with connected(valkey.url) as client:
        assert client.get("a") == b"b"
    valkey.stop()


def test_a_killed_valkey_leaves_its_data(tmp_path: Path):
    """A Valkey that is killed itself has its writes in the append-only file."""
    valkey = EmbeddedValkey.start(tmp_path / "data")
    with connected(valkey.url) as client:
        client.set("a", "b")
        wait_written(client)
    os.kill(valkey.pid, signal.SIGKILL)
    valkey.stop()
    valkey = EmbeddedValkey.start(tmp_path / "data")
    with connected(valkey.url) as client:
        assert client.get("a") == b"b"
    valkey.stop()


def wait_written(client: redis.Redis) -> None:
    """Wait until what was written so far is on disk: a slow one may put that off, and then a kill loses it."""
    assert client.waitaof(1, 0, 60_000)[0] == 1


def answers(url: str) -> bool:
    """Whether a Valkey is there and has read its data."""
    with connected(url) as client:
        try:
            return client.ping()
        except redis.RedisError:
            return False


def revived(valkey: EmbeddedValkey, dead: int) -> bool:
    """Whether another Valkey answers than the one that died; one is started if it is time."""
    valkey.revive()
    return valkey.pid != dead and answers(valkey.url)


def test_a_killed_valkey_is_started_again_with_its_data(tmp_path: Path):
    """However often it dies, its owner can start another on the same data and socket, and still stop that."""
    valkey = EmbeddedValkey.start(tmp_path / "data")
    url, pids = valkey.url, {valkey.pid}
    for turn in range(3):
        with connected(url) as client:
            client.set(f"a{turn}", turn)
            wait_written(client)
        dead = valkey.pid
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda dead=dead: revived(valkey, dead), 60)
        pids.add(valkey.pid)
    with connected(url) as client:
        assert client.mget("a0", "a1", "a2") == [b"0", b"1", b"2"]
    assert len(pids) == 4
    valkey.stop()
    assert not any(is_alive(pid) for pid in pids)


def test_a_valkey_that_cannot_start_again_does_not_keep_its_owner_from_stopping(tmp_path: Path):
    """Where its data is damaged it is tried now and then, and the folder is free once the owner stops."""
    valkey = EmbeddedValkey.start(tmp_path / "data")
    with connected(valkey.url) as client:
        client.set("a", "b" * 1000)
    damaged = [*(tmp_path / "data" / "appendonlydir").glob("*.incr.aof")]
    for file in damaged:
        file.write_bytes(file.read_bytes().replace(b"*3\r\n", b"!3\r\n"))
    os.kill(valkey.pid, signal.SIGKILL)
    wait_until(lambda: valkey.revive() or "Bad file format" in (tmp_path / "data" / "valkey.log").read_text(), 60)
    valkey.stop()
    for file in damaged:
        file.write_bytes(file.read_bytes().replace(b"!3\r\n", b"*3\r\n"))
    valkey = EmbeddedValkey.start(tmp_path / "data")
    with connected(valkey.url) as client:
        assert client.get("a") == b"b" * 1000
    valkey.stop()


def test_ranks_go_on_while_the_embedded_valkey_dies_and_comes_back(tmp_path: Path, store: Store):
    """Meanwhile histories are missing, afterwards everything that was stored is there, unaided."""
    with running(make_settings(store.folder, None, data_dir=tmp_path / "data", redis_timeout_s=2)) as service:
        url = f"unix://{socket_path(tmp_path / 'data')}"
        store_items(url, range(NUM_ITEMS), make_records())
        service.client.append_events(1, [3, 5])
        wait_until(lambda: service.client.rank(1, [9]).unknown_items == [])
        with connected(url) as client:
            pid = client.info("server")["process_id"]
            wait_written(client)
        os.kill(pid, signal.SIGKILL)
        ranking = service.client.rank(1, [9])
        assert ranking.unknown_items == []
        wait_until(lambda: service.client.rank(1, [9]).degraded == [], 60)
        assert service.client.history(1) == [3, 5]
        service.client.append_events(1, [8])
        assert service.client.history(1) == [3, 5, 8]


def test_a_command_uses_the_valkey_that_runs(tmp_path: Path, owner):
    """A command beside a running owner shares its Valkey and leaves it running."""
    _, valkey_pid = owner
    with running_or_own(tmp_path / "data") as url, connected(url) as client:
        assert client.info("server")["process_id"] == valkey_pid
    assert is_alive(valkey_pid)


def test_a_command_that_finds_none_starts_its_own_and_stops_it(tmp_path: Path):
    """Without an owner the Valkey lives as long as the command, and keeps what was written."""
    for expected in (None, b"b"):
        with running_or_own(tmp_path / "data") as url, connected(url) as client:
            assert client.get("a") == expected
            client.set("a", "b")
            pid = client.info("server")["process_id"]
        assert not is_alive(pid)


def test_a_folder_with_a_long_name_gets_a_short_socket(tmp_path: Path):
    """The path of a Unix socket is limited to about a hundred bytes; folders are not."""
    folder = tmp_path / ("long" * 20) / ("longer" * 20)
    assert len(str(socket_path(folder))) < 100
    assert socket_path(folder) != socket_path(folder.with_name("other"))
    valkey = EmbeddedValkey.start(folder)
    with connected(valkey.url) as client:
        assert client.ping()
    valkey.stop()


def test_a_folder_with_blanks_in_its_name_works(tmp_path: Path):
    """Nothing is split at a blank."""
    valkey = EmbeddedValkey.start(tmp_path / "my data")
    with connected(valkey.url) as client:
        assert client.ping()
    valkey.stop()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    """A file in the way is told in one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError, match="cannot be used"):
        EmbeddedValkey.start(tmp_path / "file" / "data")


def test_damaged_data_is_told_not_served(tmp_path: Path):
    """A Valkey that does not start is told with its own last words, and leaves the folder free."""
    valkey = EmbeddedValkey.start(tmp_path / "data")
    with connected(valkey.url) as client:
        client.set("a", "b" * 1000)
    valkey.stop()
    for file in (tmp_path / "data" / "appendonlydir").glob("*.incr.aof"):
        file.write_bytes(file.read_bytes().replace(b"*3\r\n", b"!3\r\n"))
    with pytest.raises(DataFolderError, match=r"see .*/valkey\.log: .*Bad file format reading"):
        EmbeddedValkey.start(tmp_path / "data")
    with pytest.raises(DataFolderError, match=r"see .*/valkey\.log: .*Bad file format reading"):
        EmbeddedValkey.start(tmp_path / "data")


def test_a_valkey_that_ends_before_it_logs_is_told_too(tmp_path: Path):
    """Where nothing can be logged, the reason is that of the server's output."""
    (tmp_path / "data" / "valkey.log").mkdir(parents=True)
    with pytest.raises(DataFolderError, match=r"see .*/valkey\.out: Can't open the log file: Is a directory$"):
        EmbeddedValkey.start(tmp_path / "data")


def test_a_relative_folder_is_that_of_the_working_directory(tmp_path: Path, monkeypatch):
    """A folder such as `state` works for an owner, and for a command beside it."""
    monkeypatch.chdir(tmp_path)
    valkey = EmbeddedValkey.start(Path("state"))
    with running_or_own(Path("state")) as url:
        assert url == valkey.url
    valkey.stop()
    with running_or_own(Path("state")) as url, connected(url) as client:
        assert client.ping()
    assert (tmp_path / "state" / "valkey.conf").is_file()
