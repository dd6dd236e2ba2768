"""The tables that a ranker gathers from: one row per item, bound to ONNX Runtime once."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.manifest import TableSpec


class Tables:
    """Rows of item values at fixed addresses, with headroom for items to come.

    ONNX Runtime borrows this memory, so a row that a run may read must not change: who writes, writes to rows
    that no run can see yet. Row 0 is all zeros and stays so.

    Parameters
    ----------
    specs
        Name, width and type of each table, from the bundle's manifest.
    capacity
        Number of rows, row 0 included. Memory that was never written costs nothing on Linux.
    on_gpu
        Keep a copy in GPU memory and let runs read that one.
    """

    def __init__(self, specs: Sequence[TableSpec], capacity: int, on_gpu: bool = False) -> None:
        assert capacity >= 1
        self.specs = tuple(specs)
        self.capacity = capacity
        self._on_gpu = on_gpu
        self._host = {spec.name: np.zeros((capacity, spec.width), dtype=spec.dtype) for spec in specs}
        device = "cuda" if on_gpu else "cpu"
        self._bound = {
            name: ort.OrtValue.ortvalue_from_numpy(values, device, 0) for name, values in self._host.items()
        }

    def write(self, rows: NDArray[np.int64], values: Mapping[str, NDArray[np.generic]]) -> None:
        """Store values (n, width) of each table in the given (n,) rows, none of which is row 0."""
        assert rows.min(initial=1) >= 1
        for name, table in self._host.items():
            table[rows] = values[name]
            if self._on_gpu:
                # The whole table travels again: rows in use are rewritten with the bytes they have.
                self._bound[name].update_inplace(table)

    def grown(self, capacity: int) -> "Tables":
        """Return larger tables with the same rows; these stay as they are for runs that still read them."""
        larger = Tables(self.specs, capacity, self._on_gpu)
        rows = np.arange(1, self.capacity)
        larger.write(rows, {name: values[1:] for name, values in self._host.items()})
        return larger

    def bind(self, binding: ort.IOBinding) -> None:
        """Give the tables to a run as inputs of their names."""
        for name, value in self._bound.items():
            binding.bind_ortvalue_input(name, value)
