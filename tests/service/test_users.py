import numpy as np
import pytest

from contract.client import ClientError
from contract.codec import history_key, unpack_history
from tests.service.catalogue import Expected
from tests.service.conftest import Store
from tests.service.running import Running, make_settings, running


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
