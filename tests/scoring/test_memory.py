import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scoring.memory import SharedMemory, empty_together, map_block, private_zeros

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd_create")


def mapped(memory: SharedMemory, array: np.ndarray) -> np.ndarray:
    """An array as another process sees it."""
    block = memory.block_of(array)
    return map_block(os.dup(block.descriptor), block.shape, block.dtype)


def num_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_is_written_later_is_seen_by_who_mapped_it():
    """An array of shared memory is one and the same for all who map it."""
    memory = SharedMemory()
    array = memory.zeros((1000, 7), "float32")
    other = mapped(memory, array)
    array[999] = 3
    assert other[999].tolist() == [3] * 7
    assert not other[:999].any()


def test_what_is_mapped_cannot_be_written():
    """Who maps an array reads it."""
    memory = SharedMemory()
    with pytest.raises(ValueError, match="read-only"):
        mapped(memory, memory.zeros((2, 2), "int64"))[0, 0] = 1


@pytest.mark.parametrize("array", [np.arange(12).reshape(3, 4), np.zeros((0, 3)), np.arange(10)[::3]])
def test_any_array_can_be_shared_by_a_copy(array: np.ndarray):
    """An array of this process's own is copied at the first call, and not again."""
    memory = SharedMemory()
    np.testing.assert_array_equal(mapped(memory, array), array)
    assert memory.block_of(array) is memory.block_of(array)


def test_memory_and_descriptors_end_with_the_array():
    """Nothing is left open once an array is forgotten, and what others mapped stays theirs."""
    memory, before = SharedMemory(), num_descriptors()
    array = memory.zeros((10,), "int64")
    array[3] = 4
    memory.block_of(np.arange(5))
    other = mapped(memory, array)
    del array
    assert other[3] == 4
    del other
    assert num_descriptors() == before


def test_another_process_maps_it():
    """A descriptor that was inherited leads to the same memory."""
    memory = SharedMemory()
    array = memory.zeros((4,), "int64")
    array[2] = 9
    descriptor = memory.block_of(array).descriptor
    code = f"from scoring.memory import map_block; print(map_block({descriptor}, (4,), '<i8').tolist())"
    done = subprocess.run([sys.executable, "-c", code], pass_fds=(descriptor,), capture_output=True, check=True)
    assert done.stdout == b"[0, 0, 9, 0]\n"


def test_arrays_that_lie_together_do_not_overlap() -> None:
    """Each has its shape and type and is aligned for any; writing one leaves the others."""
    kinds = [((3, 5), np.float32), ((0, 4), np.float32), ((7,), np.int64), ((2, 2), np.int8)]
    arrays = empty_together(kinds)
    assert [(array.shape, array.dtype) for array in arrays] == [(shape, np.dtype(dtype)) for shape, dtype in kinds]
    for number, array in enumerate(arrays):
        array[...] = number
        assert array.ctypes.data % 8 == 0
    assert [set(array.ravel().tolist()) for array in arrays] == [{0}, set(), {2}, {3}]


@pytest.mark.parametrize("shape", [(3, 4), (1000, 700), (0, 5), (2**20 + 1,)])
def test_private_zeros_are_zeros_of_the_shape_and_type(shape: tuple[int, ...]) -> None:
    """Whether they lie in numpy's own memory or in a mapping that ends with them."""
    array = private_zeros(shape, "float32")
    assert (array.shape, array.dtype, array.any()) == (shape, np.float32, False)
    array[...] = 1
    assert array.sum() == array.size
    assert array.ctypes.data % 8 == 0


def test_large_private_zeros_are_unmapped_with_the_last_who_holds_them() -> None:
    """A view keeps them, and nothing else does."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    array = private_zeros((2**24,), "float64")
    array[...] = 1
    view = array[5:]
    del array
    assert resident() - before > 2**26
    assert view[0] == 1
    del view
    assert resident() - before < 2**25
