"""Whether kernels give back what they took: a service runs them for months."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernels.operations import Operation, Size, tower_operands

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory is resident")

MUCH = 64 * 2**20
"""Bytes: far more than an allocator keeps for later, and far less than what all runs of a test took together."""


def grown_by(run: Callable[[], object], times: int) -> int:
    """By how many bytes the process grows while something runs, after runs that warm it up."""
    for _ in range(times // 10):
        run()
    gc.collect()
    before = _resident()
    for _ in range(times):
        run()
    gc.collect()
    return _resident() - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_run_gives_back_its_memory(library: Path) -> None:
    """1,000 runs keep neither the rows, 0.12 MB, nor weights that are inputs and packed in each run, 0.26 MB."""
    size = Size(num_candidates=200, embedding_dim=31, item_width=97, num_layers=2)
    operands = tower_operands(size, 1)
    operation = Operation(operands, size, weights_in_graph=False)
    session, feed = operation.session(library), operation.feed(operands)
    assert grown_by(lambda: session.run(None, feed), times=1000) < MUCH


def test_a_session_gives_back_its_weights(library: Path) -> None:
    """Packed weights, 3 MB of them here, go with the session: a service opens one for each version of a model."""
    size = Size(num_candidates=1, embedding_dim=64, item_width=192, num_layers=4)
    operands = tower_operands(size, 2)
    operation = Operation(operands, size)
    assert grown_by(lambda: operation.session(library), times=80) < MUCH
