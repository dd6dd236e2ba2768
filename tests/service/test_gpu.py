"""A service that scores on a GPU: here on a device that lies in the host's memory."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import structlog
import uvloop

from contract.client import ClientError
from contract.wire import Item
from scoring.budget import MIB
from scoring.errors import DeviceError
from service.errors import SettingsError, StartError
from service.replica import open_replica
from service.server import bind, run
from service.settings import read_settings
from tests.scoring.memory_device import MemoryDevice, memory_gpu
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running

ITEMS = list(range(1, 60))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MemoryDevice:
    """The device that `device=cuda` means."""
    device = MemoryDevice()
    monkeypatch.setattr("service.replica.open_gpu", lambda *_: memory_gpu(device))
    return device


def ranked(service: Running) -> np.ndarray:
    """The scores of some items, ids that nobody knows among them."""
    return np.array(service.client.rank(1, [*ITEMS, 10**9], history=[3, 4, 5]).scores)


def test_answers_are_those_of_a_service_on_the_cpu(store: Store, stocked_url, device: MemoryDevice):
    """By captured runs, before and after an item changed and another version was promoted."""
    with (
        running(make_settings(store.folder, stocked_url)) as on_cpu,
        running(make_settings(store.folder, stocked_url, device="cuda")) as on_device,
    ):
        np.testing.assert_allclose(ranked(on_device), ranked(on_cpu), atol=1e-6)
        replays = device.num_replays
        assert replays > 0
        on_device.client.promote(store.old.name)
        assert on_device.client.rank(1, [7]).version == store.old.name
        before = ranked(on_device)
        assert device.num_replays > replays
        on_device.client.put_item(7, Item([3.0] * 8))
        deadline = time.monotonic() + 60
        while np.array_equal(ranked(on_device), before):
            assert time.monotonic() < deadline
        while on_cpu.client.rank(1, [7]).version != store.old.name:
            assert time.monotonic() < deadline
        while not np.allclose(ranked(on_device), ranked(on_cpu), rtol=0, atol=1e-6):
            assert time.monotonic() < deadline


def test_a_version_that_the_device_has_no_memory_for_is_refused(store: Store, stocked_url, monkeypatch):
    """The answer says what it needs and what is left; the version that serves goes on."""
    gpu = memory_gpu(num_bytes=300 * MIB)
    monkeypatch.setattr("service.replica.open_gpu", lambda *_: gpu)
    with running(make_settings(store.folder, stocked_url, device="cuda")) as service:
        before, serving = ranked(service), service.client.rank(1, [7]).version
        other = ({store.old.name, store.new.name} - {serving}).pop()
        with pytest.raises(ClientError, match=r"need \d+ MiB of device memory; \d+ is left of device_memory_mb"):
            service.client.promote(other)
        assert service.client.rank(1, [7]).version == serving
        assert np.array_equal(ranked(service), before)


def test_a_version_whose_run_fails_is_refused_and_may_be_tried_again(store: Store, stocked_url, device: MemoryDevice):
    """It is not taken for the device's failure: what serves goes on."""
    with running(make_settings(store.folder, stocked_url, device="cuda")) as service:
        before = ranked(service)
        device.errors = [RuntimeError("CUBLAS failure 3")]
        with pytest.raises(
            ClientError, match=r"cannot be served: runs of .* candidates fail: CUBLAS failure 3"
        ) as caught:
            service.client.promote(store.old.name)
        assert caught.value.status == 422
        assert service.replica.failure is None
        assert np.array_equal(ranked(service), before)
        service.client.promote(store.old.name)
        assert service.client.rank(1, [7]).version == store.old.name


def test_a_device_that_fails_in_a_promotion_is_named(store: Store, stocked_url, device: MemoryDevice):
    """By the answer, as what is worth another try elsewhere."""
    with running(make_settings(store.folder, stocked_url, device="cuda")) as service:
        device.broken = True
        answer = service.http.post("/v1/models/qin/promote", json={"version": store.old.name})
        device.broken = False
        assert answer.status_code == 503
        assert "the device that scores failed: the GPU failed: an illegal memory access" in answer.json()["detail"]
        assert service.client.rank(1, [7]).version == store.new.name


def fail_once(device: MemoryDevice, monkeypatch: pytest.MonkeyPatch, lasting: bool) -> None:
    """Let the first version that is opened find no page-locked memory."""
    page_locked, errors = device.page_locked, [DeviceError("cudaHostAlloc: other (2)", lasting=lasting)]

    def locked(num_bytes: int) -> np.ndarray:
        if errors:
            raise errors.pop()
        return page_locked(num_bytes)

    monkeypatch.setattr(device, "page_locked", locked)


def test_at_start_the_next_version_is_tried_where_the_device_goes_on(
    store: Store, stocked_url, device: MemoryDevice, monkeypatch: pytest.MonkeyPatch
):
    """And the service says why the newest does not serve."""
    fail_once(device, monkeypatch, lasting=False)
    with running(make_settings(store.folder, stocked_url, device="cuda")) as service:
        assert service.client.rank(1, [7]).version == store.old.name
        assert "cannot be loaded: cudaHostAlloc: other (2)" in service.client.models().models[0].problem


def test_at_start_no_other_version_is_tried_where_the_device_failed(
    store: Store, stocked_url, device: MemoryDevice, monkeypatch: pytest.MonkeyPatch
):
    """It would fail too."""
    fail_once(device, monkeypatch, lasting=True)
    settings = make_settings(store.folder, stocked_url, device="cuda")
    with pytest.raises(StartError, match=r"^cudaHostAlloc: other \(2\)$"), running(settings):
        pass


def test_a_device_that_fails_ends_the_service(store: Store, stocked_url, device: MemoryDevice):
    """Requests are told so, and the process ends with an error, for whoever looks after it to start it anew."""
    settings = make_settings(store.folder, stocked_url, device="cuda")
    with bind("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as caller, structlog.testing.capture_logs() as logs:
        answers: list[Future[str]] = []

        def ready(_line: str) -> None:
            device.broken = True
            answers.append(caller.submit(refusal, f"http://127.0.0.1:{listener.getsockname()[1]}"))

        with pytest.raises(StartError, match="nothing can be ranked any more: the GPU failed: an illegal memory"):
            uvloop.run(run(open_replica(settings), listener, ready))
        assert "the device that scores failed" in answers[0].result(60)
    assert "the device that scores failed" in [line["event"] for line in logs]


def refusal(url: str) -> str:
    """What a request is told that is not answered; the client of the contract would try again."""
    answer = httpx.post(f"{url}/v1/rank", json={"user_id": 1, "candidates": ITEMS}, timeout=60)
    assert answer.status_code == 503
    return str(answer.json()["detail"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"device_candidates": ()},
        {"device_candidates": (4, 2)},
        {"device_users": (0, 1)},
        {"device_users": (8, 16), "device_candidates": (1, 4096)},
    ],
)
def test_sizes_that_are_none_are_named(tmp_path: Path, wrong: dict[str, tuple[int, ...]]):
    """Before anything is loaded."""
    with pytest.raises(SettingsError, match=f"setting {next(iter(wrong))}: .*must"):
        read_settings(store=tmp_path, **wrong)


def test_sizes_come_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As JSON."""
    monkeypatch.setenv("QIN_DEVICE_CANDIDATES", "[1, 100, 1000]")
    assert read_settings(store=tmp_path).device_candidates == (1, 100, 1000)
