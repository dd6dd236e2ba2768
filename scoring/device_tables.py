"""Tables in a device's memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.manifest import TableSpec
from scoring.accelerator import Accelerator
from scoring.buckets import Shape
from scoring.budget import MemoryBudget
from scoring.tables import Tables
from scoring.uploads import Uploads

Run = Callable[[], None]
"""Scores what lies in a bucket's input memory, with the tables that it was made for, and waits."""


class DeviceTables(Tables):
    """Rows in a device's memory; the host keeps no copy.

    Parameters
    ----------
    specs, capacity
        See `Tables`.
    accelerator, uploads
        The device, and what writes to it.
    budget
        What the memory is taken of.

    Attributes
    ----------
    runs
        What was made ready to score with these tables, by the one runner that does: their addresses are in it.
    is_ready
        Whether every bucket was.

    Raises
    ------
    DeviceMemoryError
        There is not enough memory.
    """

    def __init__(
        self,
        specs: Sequence[TableSpec],
        capacity: int,
        accelerator: Accelerator,
        uploads: Uploads,
        budget: MemoryBudget,
    ) -> None:
        assert capacity >= 1
        self.specs, self.capacity = tuple(specs), capacity
        self._accelerator, self._uploads, self._budget = accelerator, uploads, budget
        sizes = {spec.name: capacity * _row_bytes(spec) for spec in specs}
        self._reservation = budget.reserve(sum(sizes.values()), f"tables of {capacity:,} rows")
        self._memory = {name: accelerator.allocate(size) for name, size in sizes.items()}
        self.runs: dict[Shape, Run] = {}
        self.is_ready = False

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """(capacity, width) copies of each table, in the order of the specs."""
        return [
            self._uploads.read(self._memory[spec.name].address, (self.capacity, spec.width), spec.dtype)
            for spec in self.specs
        ]

    def adjacent(self, rows: NDArray[np.int64]) -> None:
        """Return None: the host cannot write there."""

    def write(self, rows: NDArray[np.int64], values: Mapping[str, NDArray[np.generic]]) -> None:
        """Store values (n, width) of each table in the given (n,) rows, none of which is row 0.

        They are there when this returns: a map to them that is exchanged afterwards leads no run to what was before.
        """
        assert rows.min(initial=1) >= 1
        assert rows.max(initial=0) < self.capacity
        for spec in self.specs:
            self._uploads.write(
                self._memory[spec.name].address, rows, values[spec.name].astype(spec.dtype, copy=False)
            )

    def grown(self, capacity: int) -> "DeviceTables":
        """Return larger tables with the same rows, copied on the device; none of their runs is ready."""
        larger = DeviceTables(self.specs, capacity, self._accelerator, self._uploads, self._budget)
        for name, memory in self._memory.items():
            self._uploads.copy_within(larger._memory[name].address, memory.address, memory.num_bytes)
        return larger

    def bind(self, binding: ort.IOBinding) -> None:
        """Give the tables to a run as inputs of their names."""
        for spec in self.specs:
            shape, address = [self.capacity, spec.width], self._memory[spec.name].address
            binding.bind_input(spec.name, self._accelerator.kind, 0, np.dtype(spec.dtype).type, shape, address)


def _row_bytes(spec: TableSpec) -> int:
    return spec.width * np.dtype(spec.dtype).itemsize
