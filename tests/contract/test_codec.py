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
    packed_layout,
    unpack_history,
    unpack_items,
    unpack_whole_items,
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


def flipped(value: bytes, byte: int, bit: int) -> bytes:
    """Return the value with one bit flipped."""
    return value[:byte] + bytes([value[byte] ^ 1 << bit]) + value[byte + 1 :]


def is_whole(value: bytes) -> bool:
    """Whether bytes are an item of the layout, by the letter of its description."""
    header = bytes([1, SLOTS]), WIDTH.to_bytes(2, "little") + bytes(2)
    return len(value) == SIZE and (value[:2], value[4:8]) == header and max(value[2:4]) <= 10


WIDTH, SLOTS = 4, 5
WHOLE = pack_items(
    item_records(
        np.arange(15).reshape(3, SLOTS), [[1, 2], [10, 0], [0, 10]], np.arange(12, dtype=np.float32).reshape(3, WIDTH)
    )
)
SIZE = len(WHOLE[0])

byte_of_header, bits = st.integers(0, 7), st.integers(0, 7)
damaged = st.one_of(
    st.binary(max_size=3 * SIZE),
    st.binary(min_size=SIZE, max_size=SIZE),
    st.builds(lambda value, length: value[:length], st.sampled_from(WHOLE), st.integers(0, SIZE)),
    st.builds(lambda *parts: b"".join(parts), st.sampled_from(WHOLE), st.sampled_from(WHOLE)),
    st.builds(lambda value, more: value + more, st.sampled_from(WHOLE), st.binary(min_size=1, max_size=8)),
    st.builds(flipped, st.sampled_from(WHOLE), byte_of_header, bits),
    st.builds(
        lambda width, slots: pack_items(item_records(np.ones((1, slots)), [[1, 1]], np.ones((1, width))))[0],
        st.integers(1, 12),
        st.integers(1, 8),
    ),
)


@given(st.lists(st.one_of(damaged, st.sampled_from(WHOLE)), max_size=8))
def test_whole_items_are_told_from_whatever_else_is_stored(values: list[bytes]) -> None:
    """Of any bytes those are taken whose header and length say this layout, and each comes back to the bit."""
    positions, records = unpack_whole_items(values, WIDTH, SLOTS)
    wanted = [position for position, value in enumerate(values) if is_whole(value)]
    assert positions.tolist() == wanted
    assert records.tobytes() == b"".join(values[position] for position in wanted)


@given(st.lists(st.one_of(damaged, st.sampled_from(WHOLE)), max_size=4))
def test_the_first_item_that_is_not_whole_is_named(values: list[bytes]) -> None:
    """Reading all or nothing fails at the right position, with a reason, and never otherwise than by CodecError."""
    broken = [position for position, value in enumerate(values) if not is_whole(value)]
    if not broken:
        assert len(unpack_items(values, WIDTH, SLOTS)) == len(values)
        return
    with pytest.raises(CodecError, match=rf"^stored item {broken[0]} (is not whole|has an embedding|has a damaged)"):
        unpack_items(values, WIDTH, SLOTS)


@given(st.sampled_from(WHOLE), byte_of_header, bits)
def test_a_header_with_a_flipped_bit_is_not_whole_or_another_level(value: bytes, byte: int, bit: int) -> None:
    """No flip in the header makes an item of one layout pass for another; a level may become another legal one."""
    positions, records = unpack_whole_items([flipped(value, byte, bit)], WIDTH, SLOTS)
    if byte in (2, 3) and flipped(value, byte, bit)[byte] <= 10:
        assert records[0][("likes_level", "views_level")[byte - 2]] == flipped(value, byte, bit)[byte]
    else:
        assert len(positions) == 0


@given(damaged)
def test_the_layout_of_any_bytes_can_be_asked_for(value: bytes) -> None:
    """Whatever is stored has a layout or none, and the right one if it is an item."""
    width, slots = packed_layout(value)
    assert (width, slots) == (0, 0) or len(value) >= 8
    if is_whole(value):
        assert (width, slots) == (WIDTH, SLOTS)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_history_or_an_error(value: bytes) -> None:
    """Whole ids come back to the bit, anything else is a CodecError."""
    if len(value) % 8:
        with pytest.raises(CodecError, match=f"not whole: {len(value)} bytes"):
            unpack_history(value)
    else:
        assert pack_history(unpack_history(value)) == value
