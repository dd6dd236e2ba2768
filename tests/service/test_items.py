import itertools
import json
import threading

import httpx
import msgspec
import numpy as np
import pytest

from contract.client import ClientError
from contract.codec import NUM_BUCKETS, items_key, pack_items
from contract.wire import Item
from tests.service.catalogue import NUM_ITEMS, Expected, make_item, record_of
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running, wait_until


def test_a_new_item_is_ranked_within_a_second(service: Running, store: Store):
    """An item that is put is known to ranks soon after, with the features it was put with."""
    assert service.client.rank(1, [500]).unknown_items == [0]
    service.client.put_item(500, make_item(500))
    wait_until(lambda: service.client.rank(1, [500]).unknown_items == [], timeout_s=1)
    expected = Expected(store.new, [500], record_of(make_item(500)))
    np.testing.assert_array_equal(np.float32(service.client.rank(1, [500]).scores), expected.scores([500]))


def test_every_replica_sees_a_new_item_within_a_second(service: Running, store: Store, stocked_url):
    """An item put at one replica is ranked by another."""
    with running(make_settings(store.folder, stocked_url)) as other:
        service.client.put_item(500, make_item(500))
        wait_until(lambda: other.client.rank(1, [500]).unknown_items == [], timeout_s=1)
        service.client.delete_item(500)
        wait_until(lambda: other.client.rank(1, [500]).unknown_items == [0], timeout_s=1)


def test_items_are_read_as_they_were_written(service: Running):
    """GET returns what PUT stored, numbers rounded to 32 bits, and 404 before and after."""
    item = Item([0.1, -2.5, 1e-3, 4, 5, 6, 7, 3.4e38], tags=[3, 11], likes_level=5, views_level=6)
    with pytest.raises(ClientError, match="no item 700"):
        service.client.item(700)
    service.client.put_item(700, item)
    read = service.client.item(700)
    assert (read.item_id, read.tags, read.likes_level, read.views_level) == (700, [3, 11], 5, 6)
    np.testing.assert_array_equal(np.float32(read.embedding), np.float32(item.embedding))
    service.client.delete_item(700)
    with pytest.raises(ClientError, match="no item 700"):
        service.client.item(700)


def test_a_deleted_item_becomes_unknown(service: Running):
    """Deleting takes an item out of ranks within a second; deleting it again is no error."""
    service.client.delete_item(9)
    wait_until(lambda: service.client.rank(1, [9, 2]).unknown_items == [0], timeout_s=1)
    service.client.delete_item(9)


def test_tags_and_levels_default_to_none(service: Running):
    """An item needs an embedding and nothing else; its id may stand in the body if it is that of the path."""
    response = service.http.put("/v1/items/700", json={"item_id": 700, "embedding": [0.5] * 8})
    assert response.status_code == 204
    read = service.client.item(700)
    assert (read.tags, read.likes_level, read.views_level) == ([], 0, 0)


def test_unknown_tags_are_stored_though_the_model_drops_them(service: Running):
    """A tag outside the vocabulary is kept: the next model may know it."""
    service.client.put_item(700, Item([0.5] * 8, tags=[2**31 - 1]))
    assert service.client.item(700).tags == [2**31 - 1]


def test_many_items_come_as_lines(service: Running, store: Store):
    """Lines are stored, the last of equal ids stays, and empty lines and CRLF do no harm."""
    lines = [msgspec.json.encode(make_item(i)) for i in range(1000, 1300)]
    lines += [b"", msgspec.json.encode(make_item(1000, seed=5)) + b"\r", b"  "]
    response = service.http.post("/v1/items", content=b"\n".join(lines))
    assert response.json() == {"written": 301, "failed": 0, "errors": []}
    wait_until(lambda: service.client.rank(1, range(1000, 1300)).unknown_items == [], timeout_s=2)
    expected = Expected(store.new, [1000], record_of(make_item(1000, seed=5)))
    wait_until(
        lambda: np.array_equal(np.float32(service.client.rank(1, [1000]).scores), expected.scores([1000])),
        timeout_s=1,
    )


def test_wrong_lines_are_reported_and_the_others_stored(service: Running):
    """Each wrong line is named by number and field; it does not keep others from being stored."""
    good = msgspec.json.encode(make_item(800)).decode()
    lines = [
        good,
        "{",
        '{"item_id": 801, "embedding": [1]}',
        '{"embedding": [1, 2, 3, 4, 5, 6, 7, 8]}',
        '{"item_id": -1, "embedding": [1, 2, 3, 4, 5, 6, 7, 8]}',
        '{"item_id": 803, "embedding": [1, 2, 3, 4, 5, 6, 7, NaN]}',
        good.replace("800", "804"),
    ]
    result = service.http.post("/v1/items", content="\n".join(lines)).json()
    assert (result["written"], result["failed"]) == (2, 5)
    assert [(error["line"], error.get("field")) for error in result["errors"]] == [
        (2, None),
        (3, "embedding"),
        (4, "item_id"),
        (5, "item_id"),
        (6, None),
    ]
    assert service.client.item(804).item_id == 804


def test_only_the_first_hundred_errors_are_described(service: Running):
    """All wrong lines are counted, a hundred are described."""
    result = service.http.post("/v1/items", content=b"{\n" * 250).json()
    assert (result["failed"], len(result["errors"])) == (250, 100)


def test_a_line_over_the_limit_is_an_error_of_that_line(store: Store, redis_url):
    """The limit is per line: a body far above it is fine, one line above it is reported."""
    with running(make_settings(store.folder, redis_url, max_body_bytes=1024)) as service:
        good = [msgspec.json.encode(make_item(i)) for i in range(100)]
        long = [
            json.dumps({"item_id": 5, "embedding": [0.5] * 8, "x": "y" * size}).encode() for size in (2000, 300_000)
        ]
        result = service.http.post("/v1/items", content=b"\n".join([*good[:50], *long, *good[50:]])).json()
        assert (result["written"], result["failed"]) == (100, 2)
        assert [error["line"] for error in result["errors"]] == [51, 52]
        last_too_long = service.http.post("/v1/items", content=b"\n" + long[1]).json()
        assert [error["line"] for error in last_too_long["errors"]] == [2]


def test_lines_may_arrive_in_any_pieces(service: Running):
    """A streamed body cut anywhere gives the same items."""
    body = b"\n".join(msgspec.json.encode(make_item(i)) for i in range(900, 910))

    def pieces():
        for start in range(0, len(body), 37):
            yield body[start : start + 37]

    assert service.http.post("/v1/items", content=pieces()).json()["written"] == 10
    assert service.client.item(909).item_id == 909


def test_an_updated_item_scores_as_before_or_as_after_and_nothing_between(service: Running, store: Store):
    """While an item alternates under ranks, every answer is one of its two scores."""
    first, second = make_item(7, seed=1), make_item(7, seed=2)
    one, other = (Expected(store.new, [7], record_of(item)).scores([7])[0] for item in (first, second))
    assert abs(one - other) > 1e-3
    service.client.put_item(7, first)
    wait_until(lambda: abs(service.client.rank(1, [7]).scores[0] - one) < 1e-6)
    stop, answers = threading.Event(), []

    def rank() -> None:
        with httpx.Client(base_url=service.url, timeout=30) as http:
            while not stop.is_set():
                answers.append(http.post("/v1/rank", json={"user_id": 1, "candidates": [7] * 300}).json()["scores"])

    threads = [threading.Thread(target=rank) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in itertools.count():
        service.client.put_item(7, second if turn % 2 == 0 else first)
        if turn >= 60 and len(answers) >= 60:
            break
    stop.set()
    for thread in threads:
        thread.join()
    is_one, is_other = (np.abs(np.array(answers) - score).max(axis=1) < 1e-6 for score in (one, other))
    assert (is_one ^ is_other).all()
    assert is_one.any()
    assert is_other.any()


def test_items_another_model_stored_are_unknown_not_fatal(service: Running, plain):
    """A stored value that is not whole counts as unknown; its neighbours are ranked."""
    broken = pack_items(record_of(make_item(640)))[0][:-4]
    plain.eval(
        "redis.call('HSET', KEYS[1], '640', ARGV[1]) redis.call('HSET', KEYS[1], '704', ARGV[2])"
        "redis.call('DEL', KEYS[2])",
        2,
        items_key(0),
        f"qin:{{i{0}}}:log",
        broken,
        pack_items(record_of(make_item(704)))[0],
    )
    wait_until(lambda: service.client.rank(1, [704, 640]).unknown_items == [1])
    response = service.http.get("/v1/items/640")
    assert response.status_code == 404
    assert "not readable" in response.json()["detail"]


def test_items_are_spread_over_buckets_that_fit_a_cluster(service: Running, plain):
    """Every item lies in the hash of its bucket, whose log shares its slot."""
    sizes = [plain.hlen(items_key(bucket)) for bucket in range(NUM_BUCKETS)]
    assert sum(sizes) == NUM_ITEMS
    assert max(sizes) - min(sizes) <= 1
