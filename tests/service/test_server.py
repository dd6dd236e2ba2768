"""Whole processes: how they start, fail to start, and end."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvloop

from contract.client import Client
from service.connection import without_secrets
from service.replica import Replica, open_replica
from service.server import bind, run, serve
from tests.service.catalogue import NUM_ITEMS, make_item, make_records, store_items
from tests.service.conftest import Store
from tests.service.running import await_ready, make_settings, serving_process, wait_until


def failure_of(log: Path, **settings) -> str:
    """What a process that cannot start says; it must end by itself, with an error."""
    with serving_process(log, **settings) as process:
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "ready" not in said
    return log.read_text()


def reason(text: str) -> str:
    """The only line that is not a log line."""
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if not line.startswith("{")]
    return line


def test_the_service_imports_no_torch():
    """Nothing of the offline side is loaded by everything that serving imports."""
    code = (
        "import sys, service.server, service.bulk, contract.client\n"
        "print(*sorted({'torch', 'onnx', 'onnxscript', 'sklearn', 'training', 'export'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_serve_says_when_it_is_ready_and_ends_well_on_sigterm(store: Store, stocked_url, tmp_path: Path):
    """One line tells where it listens and what it serves; SIGTERM ends it with status 0."""
    with serving_process(tmp_path / "log", store=store.folder, redis_url=stocked_url) as process:
        line = process.stdout.readline()
        assert f"qin {store.new.name} on CPUExecutionProvider, {NUM_ITEMS} items from Redis at unix://" in line
        assert "writing needs no key" in line
        url = line.split()[2].rstrip(":")
        assert httpx.get(f"{url}/v2/health/ready").json() == {"ready": True}
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert process.stdout.read() == ""
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert "version serves" in events


@pytest.mark.parametrize("num_steps", range(4))
def test_a_signal_as_the_start_ends_is_an_orderly_end(store: Store, stocked_url, num_steps: int):
    """What is done about it may only be done when the service has begun to serve."""

    @contextlib.asynccontextmanager
    async def opening() -> AsyncIterator[Replica]:
        async with open_replica(make_settings(store.folder, stocked_url)) as replica:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(num_steps):
                await asyncio.sleep(0)
            yield replica

    with bind("127.0.0.1", 0) as listener:
        uvloop.run(asyncio.wait_for(run(opening(), listener, lambda _: None), 30))


def test_sigint_ends_it_well_too(store: Store, stocked_url, tmp_path: Path):
    """Ctrl-C is an orderly end."""
    with serving_process(tmp_path / "log", store=store.folder, redis_url=stocked_url) as process:
        await_ready(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_requests_in_flight_at_sigterm_are_answered(store: Store, stocked_url, tmp_path: Path):
    """A request that was being sent when the signal came gets its answer."""
    with serving_process(tmp_path / "log", store=store.folder, redis_url=stocked_url) as process:
        url = await_ready(process)
        answers: list[httpx.Response] = []

        def body():
            yield b'{"user_id": 1, '
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            yield b'"candidates": [1, 2, 3]}'

        thread = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/v1/rank", content=body())))
        thread.start()
        thread.join(20)
        assert process.wait(15) == 0
    assert [answer.status_code for answer in answers] == [200]
    assert len(answers[0].json()["scores"]) == 3


def test_embedded_data_survives_serving_twice(store: Store, tmp_path: Path):
    """Without a Redis URL, items, histories and the active version are there after SIGTERM and after SIGKILL."""
    settings = {"store": store.folder, "data_dir": tmp_path / "data"}
    with serving_process(tmp_path / "log", **settings) as process, Client(await_ready(process)) as client:
        client.put_items([make_item(i) for i in range(100)])
        client.append_events(1, [3, 5])
        client.promote(store.old.name)
        process.terminate()
        assert process.wait(15) == 0
    with serving_process(tmp_path / "log", **settings) as process, Client(await_ready(process)) as client:
        ranking = client.rank(1, list(range(100)))
        assert ranking.unknown_items == []
        assert ranking.version == store.old.name
        client.append_events(1, [8])
        process.kill()
        process.wait()
    with serving_process(tmp_path / "log", **settings) as process, Client(await_ready(process)) as client:
        assert client.history(1) == [3, 5, 8]
        assert client.rank(1, list(range(100))).unknown_items == []
        process.terminate()
        assert process.wait(15) == 0


def test_a_data_folder_serves_once(store: Store, tmp_path: Path):
    """A second service on the same folder is refused with the first one's PID."""
    settings = {"store": store.folder, "data_dir": tmp_path / "data"}
    with serving_process(tmp_path / "log", **settings) as first:
        await_ready(first)
        said = reason(failure_of(tmp_path / "log2", **settings))
        assert said == f"qin serve: data folder {tmp_path / 'data'} is in use by process {first.pid}"
        first.terminate()
        assert first.wait(15) == 0


def test_an_absent_redis_is_told_in_one_line(store: Store, tmp_path: Path):
    """No traceback, and no password, when the Redis of the URL does not answer."""
    url = "redis://user:geheim@127.0.0.1:1/0"
    text = failure_of(tmp_path / "log", store=store.folder, redis_url=url)
    assert reason(text).startswith("qin serve: Redis at redis://127.0.0.1:1/0 does not answer")
    assert "geheim" not in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"redis_url": "http://x"}, "setting redis_url: not a URL of Redis"),
        ({"redis_url": "redis://host:geheim/0"}, "setting redis_url: not a URL of Redis"),
        ({"host": "a" * 80}, f"cannot listen on {'a' * 80}:0: not a name of a host"),
        ({"redis_url": "redis://127.0.0.1:1"}, "Redis at redis://127.0.0.1:1 does not answer"),
        ({"port": 70000}, "setting port: "),
        ({"store": None}, "setting store: "),
        ({"model": "../x"}, "setting model: "),
        ({"admin_key": ""}, "setting admin_key: the key is empty"),
        ({}, "nothing to serve: "),
    ],
)
def test_whatever_is_wrong_at_the_start_is_told_in_one_line(tmp_path: Path, redis_url, capsys, wrong, said):
    """One line names the setting, the Redis or the store that is wrong, and the status is 1."""
    assert serve(**{"store": tmp_path, "redis_url": redis_url, "port": 0, "device": "cpu", **wrong}) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"qin serve: {said}")
    assert captured.err.count("\n") == 1


def test_a_port_in_use_is_told_in_one_line(store: Store, stocked_url, tmp_path: Path):
    """The address is named, before anything is loaded."""
    with serving_process(tmp_path / "log", store=store.folder, redis_url=stocked_url) as process:
        port = int(await_ready(process).rpartition(":")[2])
        said = reason(failure_of(tmp_path / "log2", store=store.folder, redis_url=stocked_url, port=port))
        assert said == f"qin serve: cannot listen on 127.0.0.1:{port}: Address already in use"


def test_cuda_is_never_replaced_silently(store: Store, stocked_url, tmp_path: Path):
    """Where CUDA was asked for and does not run, the service does not start."""
    if shutil.which("nvidia-smi"):
        pytest.skip("a GPU is here")
    text = failure_of(tmp_path / "log", store=store.folder, redis_url=stocked_url, device="cuda")
    assert text.splitlines()[-1].startswith("qin serve: CUDA")
    assert "Traceback" not in text


def test_readiness_goes_before_the_end(store: Store, stocked_url, tmp_path: Path):
    """After SIGTERM the probe says not ready on a connection that is still in use."""
    with serving_process(tmp_path / "log", store=store.folder, redis_url=stocked_url) as process:
        url = await_ready(process)
        store_items(stocked_url, range(NUM_ITEMS), make_records())
        stop = threading.Event()

        def hold():
            yield b'{"user_id": 1, '
            stop.wait(10)
            yield b'"candidates": [1]}'

        holder = threading.Thread(target=lambda: httpx.post(f"{url}/v1/rank", content=hold(), timeout=20))
        holder.start()
        with httpx.Client(base_url=url, timeout=30) as http:
            assert http.get("/v2/health/ready").status_code == 200
            process.terminate()
            wait_until(lambda: not is_ready(http))
        stop.set()
        holder.join(20)
        assert process.wait(15) == 0


def is_ready(http: httpx.Client) -> bool:
    """Whether the probe answers ready; a closed door is not."""
    try:
        return http.get("/v2/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("url", ["redis://:geheim/x@h:1", "redis://u:a@geheim:b@h", "redis://h:1x?password=geheim"])
def test_no_part_of_a_password_is_shown_of_a_url_that_is_none(tmp_path: Path, capsys, url):
    """A malformed URL is refused without being quoted."""
    assert serve(store=tmp_path, redis_url=url, port=0, device="cpu") == 1
    assert "geheim" not in capsys.readouterr().err


def test_a_url_for_logs_holds_no_part_of_a_password():
    """Where a stray `@` lets a password reach into the path or the options, only the scheme is left."""
    assert without_secrets("redis://u:geheim@h:1/0?db=2") == "redis://h:1/0"
    for url in (
        "redis://:12/geheim@h",
        "redis://:12?geheim@h",
        "redis://:12#geheim@h",
        "rediss://h?password=a@geheim",
    ):
        assert without_secrets(url).endswith("://...")


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_starting_leaves_no_valkey_behind(store: Store, tmp_path: Path, number, delay_s):
    """A start that is ended is an orderly end: status 0, and the embedded Valkey stopped."""
    log = tmp_path / "log"
    with serving_process(log, store=store.folder, data_dir=tmp_path / "data") as process:
        wait_until(lambda: "embedded Valkey started" in log.read_text())
        valkey_pid = int((tmp_path / "data" / "valkey.pid").read_text())
        time.sleep(delay_s)
        process.send_signal(number)
        process.send_signal(number)
        try:
            assert process.wait(15) == 0
            with pytest.raises(ProcessLookupError):
                os.kill(valkey_pid, 0)
        finally:
            if process.returncode != 0:
                os.kill(valkey_pid, signal.SIGKILL)
    assert "Traceback" not in log.read_text()
