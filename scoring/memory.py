"""Arrays in memory that other processes can map, anonymous files of Linux, or in a process's own.

Either is gone with whoever holds it last.
"""

import contextlib
import itertools
import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Zeros = Callable[[Sequence[int], DTypeLike], NDArray[Any]]
"""Allocates an array of a shape and a type, filled with zeros."""

_ALIGNED = 64
_HUGE = 2**21


def private_zeros(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros in this process's own memory.

    Large ones are unmapped by whoever drops them last while other threads run: numpy's own are while it holds the
    interpreter, for milliseconds where the pages are many.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    if size < _HUGE:
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, prod(shape)).reshape(shape)


def empty_together(kinds: Sequence[tuple[Sequence[int], DTypeLike]]) -> list[NDArray[Any]]:
    """Return uninitialised arrays of these shapes and types that lie in one block.

    A large block goes back to the system when it is freed; several smaller ones would leave holes in the heap.
    """
    sizes = [prod(shape) * np.dtype(dtype).itemsize for shape, dtype in kinds]
    starts = [0, *itertools.accumulate(-(-size // _ALIGNED) * _ALIGNED for size in sizes)]
    block = np.empty(starts[-1], np.uint8)
    return [
        block[start : start + size].view(dtype).reshape(shape)
        for (shape, dtype), start, size in zip(kinds, starts[:-1], sizes, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Block:
    """What another process needs to map an array; the descriptor stays open for as long as the array lives."""

    number: int
    descriptor: int
    shape: tuple[int, ...]
    dtype: str


class SharedMemory:
    """Allocates arrays that other processes can map, and shares copies of those that it did not allocate.

    Memory that was never written costs nothing. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._blocks: dict[int, Block] = {}

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return zeros that other processes can map."""
        shape, dtype = tuple(shape), np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        descriptor = _create(size)
        memory = mmap.mmap(descriptor, max(size, 1))
        array = np.frombuffer(memory, dtype, prod(shape)).reshape(shape)
        self._remember(array, descriptor)
        return array

    def block_of(self, array: NDArray[Any]) -> Block:
        """Return where an array lies for other processes; it is copied once if it was not allocated here.

        Of a copied array only what it held at the first call is seen by others: it must not change.
        """
        known = self._blocks.get(id(array))
        if known is not None:
            return known
        descriptor = _create(array.nbytes)
        _write(descriptor, array)
        return self._remember(array, descriptor)

    def _remember(self, array: NDArray[Any], descriptor: int) -> Block:
        block = Block(next(self._numbers), descriptor, array.shape, array.dtype.str)
        self._blocks[id(array)] = block
        weakref.finalize(array, self._forget, id(array)).atexit = False
        return block

    def _forget(self, key: int) -> None:
        os.close(self._blocks.pop(key).descriptor)


def map_block(descriptor: int, shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Return another process's array, read-only; the descriptor is closed, the memory stays while the array lives."""
    count = prod(shape)
    try:
        size = count * np.dtype(dtype).itemsize
        memory = mmap.mmap(descriptor, max(size, 1), prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    array: NDArray[Any] = np.frombuffer(memory, dtype, count).reshape(tuple(shape))
    return array


def _create(size: int) -> int:
    descriptor = os.memfd_create("qin", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, max(size, 1))
    return descriptor


def _write(descriptor: int, array: NDArray[Any]) -> None:
    position = 0
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    while position < len(content):
        position += os.pwrite(descriptor, content[position:].data, position)
