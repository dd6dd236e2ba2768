"""What runs a graph of rows: tables and row numbers in, one array out.

Shapes: U users, N candidates of each, H history length.
"""

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from scoring.tables import Tables

INPUTS = "candidate_rows", "history_rows", "levels"


class Runner(Protocol):
    """Runs one graph; safe to call from several threads."""

    @property
    def session(self) -> ort.InferenceSession:
        """The session that runs it."""

    @property
    def failure(self) -> str | None:
        """Why it will never run again, or None."""

    def run(
        self,
        tables: Tables,
        candidate_rows: NDArray[np.int64],
        history_rows: NDArray[np.int64],
        levels: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return the output for (U, N) candidate rows, (U, H) history rows and (U, N, 2) levels."""


def run_into(
    session: ort.InferenceSession, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
) -> None:
    """Run a session whose outputs have these shapes, and have it write them into these arrays.

    They would be copied otherwise, while other threads wait for the interpreter.
    """
    binding = session.io_binding()
    for name, values in inputs.items():
        binding.bind_cpu_input(name, values)
    for name, values in outputs.items():
        binding.bind_output(name, "cpu", 0, values.dtype, values.shape, values.ctypes.data)
    session.run_with_iobinding(binding)


class SessionRunner:
    """Runs a graph by one call of its session, whatever the shapes, with inputs and output in the host's memory."""

    failure: str | None = None

    def __init__(self, session: ort.InferenceSession, output: str) -> None:
        self.session, self._output = session, output

    def run(
        self,
        tables: Tables,
        candidate_rows: NDArray[np.int64],
        history_rows: NDArray[np.int64],
        levels: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return the output; see `Runner`."""
        binding = self.session.io_binding()
        tables.bind(binding)
        for name, values in zip(INPUTS, (candidate_rows, history_rows, levels), strict=True):
            binding.bind_cpu_input(name, np.ascontiguousarray(values, dtype=np.int64))
        binding.bind_output(self._output, "cpu")
        self.session.run_with_iobinding(binding)
        result: NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return result


class TurnRunner(SessionRunner):
    """The same, one run after the other: what a session on a GPU needs whose runs all go to one queue.

    Parameters
    ----------
    session, output
        The session, and which of its outputs.
    holds
        What must not go before the session.
    """

    def __init__(self, session: ort.InferenceSession, output: str, holds: object) -> None:
        super().__init__(session, output)
        self._holds, self._turn = holds, threading.Lock()

    def run(
        self,
        tables: Tables,
        candidate_rows: NDArray[np.int64],
        history_rows: NDArray[np.int64],
        levels: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return the output; see `Runner`."""
        with self._turn:
            return super().run(tables, candidate_rows, history_rows, levels)
