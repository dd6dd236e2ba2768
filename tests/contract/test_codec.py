import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.codec import (
    NUM_BUCKETS,
    CodecError,
    bucket_of,
    item_records,
    items_key,
    log_key,
    pack_history,
    pack_items,
    unpack_history,
    unpack_items,
)


@given(
    hnp.arrays(np.int64, (3, 5), elements=st.integers(0, 2**31 - 1)),
    hnp.arrays(np.int64, (3, 2), elements=st.integers(0, 10)),
    hnp.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
)
def test_items_come_back_as_they_went(tags: np.ndarray, levels: np.ndarray, embedding: np.ndarray) -> None:
    """Packing and unpacking lose nothing, to the bit."""
    records = unpack_items(pack_items(item_records(tags, levels, embedding)), embedding_width=4)
    assert np.array_equal(records["tags"], tags)
    assert np.array_equal(records["likes_level"], levels[:, 0])
    assert np.array_equal(records["views_level"], levels[:, 1])
    assert records["embedding"].tobytes() == embedding.tobytes()


@pytest.mark.parametrize(
    ("tags", "levels", "embedding", "complaint"),
    [
        ([[0], [-1]], [[0, 0], [0, 0]], [[0.0], [0.0]], "item 1: tag out of range"),
        ([[2**31], [0]], [[0, 0], [0, 0]], [[0.0], [0.0]], "item 0: tag out of range"),
        ([[0], [0]], [[0, 0], [0, 11]], [[0.0], [0.0]], "item 1: level out of range"),
        ([[0], [0]], [[0, 0], [0, 0]], [[0.0], [np.nan]], "item 1: embedding is not finite"),
        ([[0], [0]], [[0, 0], [0, 0]], [[1e39], [0.0]], "item 0: embedding is not finite"),
    ],
)
def test_an_item_out_of_range_is_refused_by_position(tags, levels, embedding, complaint) -> None:
    """A value that cannot be stored or served says where it is."""
    with pytest.raises(CodecError, match=complaint):
        item_records(tags, levels, embedding)


@pytest.mark.parametrize(("slots", "width"), [(300, 4), (5, 70_000)])
def test_a_layout_that_the_header_cannot_name_is_refused(slots: int, width: int) -> None:
    """More slots or numbers than can be stored are an error of the codec."""
    with pytest.raises(CodecError, match=f"{slots} tag slots and an embedding of width {width}"):
        item_records(np.zeros((1, slots)), [[0, 0]], np.zeros((1, width)))


@given(st.integers(0, 67))
def test_a_truncated_item_is_never_taken_for_a_whole_one(length: int) -> None:
    """Any shorter value is refused."""
    whole = pack_items(item_records([[1, 2, 3, 4, 5]], [[1, 2]], [np.ones(10)]))[0]
    assert len(whole) == 68
    with pytest.raises(CodecError, match="not whole"):
        unpack_items([whole[:length]], embedding_width=10)


def test_an_item_of_another_width_is_named_as_such() -> None:
    """The error tells both widths, so that the operator knows what happened."""
    other = pack_items(item_records([[0] * 5], [[0, 0]], [np.ones(12)]))
    with pytest.raises(CodecError, match=r"width 12 .* width 10 was expected"):
        unpack_items(other, embedding_width=10)


@given(st.lists(st.integers(0, 2**63 - 1), max_size=70))
def test_histories_come_back_as_they_went(item_ids: list[int]) -> None:
    """A history is its ids, in order."""
    assert unpack_history(pack_history(item_ids)).tolist() == item_ids


def test_a_truncated_history_is_refused() -> None:
    """Part of an id is not an id."""
    with pytest.raises(CodecError, match="not whole: 15 bytes"):
        unpack_history(pack_history([1, 2])[:-1])


def test_an_item_and_its_log_share_a_cluster_slot() -> None:
    """The hash tag of both keys is the same, so one script may write both."""
    bucket = bucket_of(12345)
    assert 0 <= bucket < NUM_BUCKETS
    tags = {key[key.index("{") : key.index("}")] for key in (items_key(bucket), log_key(bucket))}
    assert len(tags) == 1
