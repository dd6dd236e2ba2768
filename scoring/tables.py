"""The tables that a ranker gathers from: one row per item, bound to ONNX Runtime once."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.manifest import TableSpec
from scoring.memory import Zeros, private_zeros


class Tables:
    """Rows of item values at fixed addresses, with headroom for items to come.

    ONNX Runtime borrows this memory, so a row that a run may read must not change: who writes, writes to rows
    that no run can see yet. Row 0 is all zeros and stays so.

    Parameters
    ----------
    specs
        Name, width and type of each table, from the bundle's manifest.
    capacity
        Number of rows, row 0 included. Pages that were never written cost nothing on Linux.
    zeros
        Allocates the memory.
    """

    def __init__(self, specs: Sequence[TableSpec], capacity: int, zeros: Zeros = private_zeros) -> None:
        assert capacity >= 1
        self._zeros = zeros
        self._hold(specs, [zeros((capacity, spec.width), spec.dtype) for spec in specs])

    @classmethod
    def of_arrays(cls, specs: Sequence[TableSpec], arrays: Sequence[NDArray[Any]]) -> Self:
        """Return tables over memory that somebody else fills; these are never written."""
        tables = cls.__new__(cls)
        tables._hold(specs, arrays)
        return tables

    def _hold(self, specs: Sequence[TableSpec], arrays: Sequence[NDArray[Any]]) -> None:
        self.specs = tuple(specs)
        self.capacity = len(arrays[0])
        self._host = {spec.name: values for spec, values in zip(specs, arrays, strict=True)}
        self._bound = {name: ort.OrtValue.ortvalue_from_numpy(values) for name, values in self._host.items()}

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """(capacity, width) the values of each table, in the order of the specs."""
        return list(self._host.values())

    def adjacent(self, rows: NDArray[np.int64]) -> Mapping[str, NDArray[Any]] | None:
        """Return the memory of (n,) rows, (n, width) of each table, to be written to; None where it is scattered.

        There is at least one row, and row 0 is none of them.
        """
        assert rows.min() >= 1
        first, after = int(rows[0]), int(rows[0]) + len(rows)
        if not np.array_equal(rows, np.arange(first, after)):
            return None
        return {name: table[first:after] for name, table in self._host.items()}

    def write(self, rows: NDArray[np.int64], values: Mapping[str, NDArray[np.generic]]) -> None:
        """Store values (n, width) of each table in the given (n,) rows, none of which is row 0."""
        assert rows.min(initial=1) >= 1
        for name, table in self._host.items():
            table[rows] = values[name]

    def grown(self, capacity: int) -> "Tables":
        """Return larger tables with the same rows; these stay as they are for runs that still read them."""
        larger = Tables(self.specs, capacity, self._zeros)
        rows = np.arange(1, self.capacity)
        larger.write(rows, {name: values[1:] for name, values in self._host.items()})
        return larger

    def bind(self, binding: ort.IOBinding) -> None:
        """Give the tables to a run as inputs of their names."""
        for name, value in self._bound.items():
            binding.bind_ortvalue_input(name, value)
