import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest

from contract.client import ClientError
from contract.codec import history_key, pack_history, retry_key, unpack_history
from contract.wire import RankRequest
from service.connection import connect
from service.users import Histories
from tests.service.catalogue import Expected
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running
from tests.service.servers import Node, standalone


def test_the_next_rank_sees_appended_events(service: Running, store: Store):
    """Events are in the history of the very next rank of their user, and of no other."""
    expected = Expected(store.new)
    service.client.append_events(1, [3, 5])
    service.client.append_events(1, [8])
    np.testing.assert_array_equal(
        np.float32(service.client.rank(1, [9, 2]).scores), expected.scores([9, 2], [3, 5, 8])
    )
    np.testing.assert_array_equal(np.float32(service.client.rank(2, [9, 2]).scores), expected.scores([9, 2]))
    assert service.client.history(1) == [3, 5, 8]


def test_histories_are_written_read_and_forgotten(service: Running):
    """A history can be replaced, read and deleted; an unknown user's is empty."""
    assert service.client.history(5) == []
    service.client.put_history(5, [9, 8, 7])
    assert service.client.history(5) == [9, 8, 7]
    service.client.append_events(5, [6])
    assert service.client.history(5) == [9, 8, 7, 6]
    service.client.put_history(5, [])
    assert service.client.history(5) == []
    service.client.put_history(5, [1])
    service.client.delete_history(5)
    assert service.client.history(5) == []


def test_the_last_64_items_are_kept(service: Running, plain):
    """Longer histories are trimmed where they are stored, oldest first, whichever way they came."""
    service.client.append_events(1, range(1, 50))
    service.client.append_events(1, range(50, 100))
    assert service.client.history(1) == list(range(36, 100))
    service.client.append_events(1, range(1, 1000))
    assert service.client.history(1) == list(range(936, 1000))
    service.client.put_history(1, range(1, 500))
    assert unpack_history(plain.get(history_key(1))).tolist() == list(range(436, 500))


def test_as_many_items_are_kept_as_the_setting_says_but_never_fewer_than_the_model_needs(store: Store, stocked_url):
    """A setting below the model's history length is raised to it."""
    with running(make_settings(store.folder, stocked_url, stored_history_length=3)) as service:
        service.client.append_events(1, range(1, 20))
        assert service.client.history(1) == list(range(12, 20))


def test_no_events_are_no_error(service: Running):
    """An empty list appends nothing."""
    service.client.append_events(1, [])
    assert service.client.history(1) == []


def test_an_idempotency_key_makes_a_retry_safe(service: Running, plain):
    """The same events under the same key are appended once; another key, or another user, appends again."""
    service.client.append_events(1, [3, 5], idempotency_key="a")
    service.client.append_events(1, [3, 5], idempotency_key="a")
    assert service.client.history(1) == [3, 5]
    service.client.append_events(1, [3, 5], idempotency_key="b")
    assert service.client.history(1) == [3, 5, 3, 5]
    service.client.append_events(2, [3, 5], idempotency_key="a")
    assert service.client.history(2) == [3, 5]
    assert 0 < plain.ttl("qin:{u1}:retry:a") <= 86_400


def test_an_idempotency_key_with_other_events_is_refused(service: Running):
    """A key that is used again for something else is a mistake, not a retry."""
    service.client.append_events(1, [3, 5], idempotency_key="a")
    with pytest.raises(ClientError, match="other items") as caught:
        service.client.append_events(1, [4], idempotency_key="a")
    assert (caught.value.status, caught.value.field) == (422, "Idempotency-Key")
    assert service.client.history(1) == [3, 5]


def test_a_damaged_history_counts_as_unreadable_until_it_is_written_again(service: Running, plain):
    """Bytes that are no whole ids make a rank degraded, not an error; the next event starts afresh."""
    plain.set(history_key(1), b"12345")
    ranking = service.client.rank(1, [9, 2])
    assert ranking.degraded == ["history"]
    assert ranking.scores == service.client.rank(2, [9, 2]).scores
    service.client.append_events(1, [3])
    assert service.client.history(1) == [3]


def test_the_largest_ids_survive(service: Running):
    """User and item ids up to 2^63 - 1 are stored and returned whole."""
    largest = 2**63 - 1
    service.client.append_events(largest, [largest, 2**53 + 1])
    assert service.client.history(largest) == [largest, 2**53 + 1]


def test_a_history_of_another_type_is_unreadable_until_it_is_written_again(service: Running, plain):
    """A key that something else took costs its user the history and nobody anything; the next event takes it back."""
    service.client.append_events(2, [5])
    plain.lpush(history_key(1), "what", "ever")
    assert service.client.rank(1, [9]).degraded == ["history"]
    assert service.client.history(1) == []
    one, other = service.client.rank_many([RankRequest(1, [9]), RankRequest(2, [9])])
    assert (one.degraded, other.degraded) == (["history"], [])
    service.client.append_events(1, [3], idempotency_key="a")
    assert service.client.history(1) == [3]


def test_a_marker_of_another_type_refuses_the_key(service: Running, plain):
    """Whether such an append has happened cannot be known, so it does not happen."""
    plain.lpush("qin:{u1}:retry:a", "what")
    with pytest.raises(ClientError, match="other items"):
        service.client.append_events(1, [3], idempotency_key="a")
    assert service.client.history(1) == []


def test_a_key_may_be_used_again_once_its_marker_has_expired(service: Running, plain):
    """The marker, which a retry does not renew, is all that is remembered of an append."""
    service.client.append_events(1, [3], idempotency_key="a")
    plain.expire("qin:{u1}:retry:a", 100)
    service.client.append_events(1, [3], idempotency_key="a")
    assert 0 < plain.ttl("qin:{u1}:retry:a") <= 100
    plain.delete("qin:{u1}:retry:a")
    service.client.append_events(1, [4], idempotency_key="a")
    assert service.client.history(1) == [3, 4]


def test_retries_while_the_first_is_in_flight_append_once(service: Running):
    """However many arrive at once, the events are there once, and all are told that they are."""

    async def storm() -> list[None]:
        append = service.replica.histories.append
        return await asyncio.gather(*(append(1, [3, 5], "a") for _ in range(50)))

    service.call(storm())
    assert service.client.history(1) == [3, 5]


def test_an_append_that_was_cut_off_is_done_once_when_it_is_sent_again(tmp_path: Path):
    """Whether Redis got to it or not; both the first and its retry may lie in its queue."""

    async def test(node: Node) -> None:
        async with connect(node.url, 0.1) as impatient, connect(node.url, 30) as patient:
            await impatient.ping()
            await patient.ping()
            node.signal(signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                await Histories(impatient, 64).append(1, [3, 5], "a")
            retry = asyncio.create_task(Histories(patient, 64).append(1, [3, 5], "a"))
            await asyncio.sleep(0)
            node.signal(signal.SIGCONT)
            await retry
            assert await Histories(patient, 64).read([1]) == [pack_history([3, 5])]

    with standalone(tmp_path) as node:
        asyncio.run(test(node))


def test_what_histories_and_markers_cost_in_memory(plain):
    """A history of 64 items costs 0.6 KB, and a marker, for a day, 0.15 KB: what the documentation counts with."""
    user = 2**40
    plain.set(history_key(user), pack_history(range(64)))
    plain.set(retry_key(user, "0123456789abcdef0123456789abcdef"), b"x" * 32, ex=86_400)
    assert plain.memory_usage(history_key(user)) <= 700
    assert plain.memory_usage(retry_key(user, "0123456789abcdef0123456789abcdef")) <= 220
