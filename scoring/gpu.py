"""A GPU that versions of a model share, and what each of them holds there."""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from contract.manifest import TableSpec
from scoring.accelerator import Accelerator
from scoring.buckets import Buckets
from scoring.budget import MIB, MemoryBudget
from scoring.cuda import CudaAccelerator
from scoring.device import open_fused, open_session
from scoring.device_runner import DeviceRunner
from scoring.device_tables import DeviceTables
from scoring.errors import DeviceError
from scoring.runner import TurnRunner
from scoring.uploads import Uploads

_SHARE_OF_FREE = 0.9
_FIXED_BYTES = 128 * MIB
"""Of a session: cuBLAS's workspaces for a few threads, kernels' code, captured graphs."""
_LIVE_VALUES = 6
"""Arrays as wide as the tower's input that a run has at once, by standard operations; kernels need fewer."""
_WIDTHS = 3
"""How many times as wide as an item a tower's input may be."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and how it is used.

    Attributes
    ----------
    budget
        What all versions together may take of its memory.
    graphs
        Whether runs are captured.
    """

    accelerator: Accelerator
    budget: MemoryBudget
    buckets: Buckets = field(default_factory=Buckets)
    graphs: bool = True


def open_gpu(memory_mb: int | None = None, buckets: Buckets | None = None, graphs: bool = True) -> Gpu:
    """Return this process's NVIDIA GPU.

    Parameters
    ----------
    memory_mb
        MiB of its memory that versions may take; None: nine tenths of what is free now.

    Raises
    ------
    DeviceError
        CUDA cannot be used here.
    """
    try:
        accelerator = CudaAccelerator()
    except DeviceError as error:
        raise DeviceError(f"CUDA does not run here: {error}") from error
    most = int(accelerator.free_bytes() * _SHARE_OF_FREE) if memory_mb is None else memory_mb * MIB
    budget = MemoryBudget(most, accelerator.free_bytes)
    return Gpu(accelerator, budget, Buckets() if buckets is None else buckets, graphs)


@functools.cache
def shared_gpu() -> Gpu:
    """Return the GPU of scorers that are given none: all of them in this process share it; raises DeviceError."""
    return open_gpu()


class GpuShare:
    """What one version holds of a GPU, and opens there.

    Parameters
    ----------
    gpu
        Which.
    specs
        The version's tables.
    history_length
        H.
    """

    def __init__(self, gpu: Gpu, specs: Sequence[TableSpec], history_length: int) -> None:
        self._gpu, self._specs, self._history_length = gpu, specs, history_length
        self._uploads = Uploads(gpu.accelerator)

    def new_tables(self, capacity: int) -> DeviceTables:
        """Return empty tables; raises DeviceMemoryError."""
        return DeviceTables(self._specs, capacity, self._gpu.accelerator, self._uploads, self._gpu.budget)

    def open_ranker(
        self, graph: bytes, ops: Collection[str], num_threads: int
    ) -> tuple[DeviceRunner, Mapping[str, str]]:
        """Return what runs the ranker, and what its fused operations run by.

        Raises
        ------
        DeviceMemoryError
            There is not enough memory.
        DeviceError, GraphError
            See `scoring.device.open_fused`.
        """
        budget = self._gpu.budget
        reservation = budget.reserve(self._needed_bytes(graph), "a ranker's weights and largest run")
        stream = self._gpu.accelerator.stream()
        # More than what it should need if that is left: the estimate is for refusing a version, not for breaking it.
        provider = stream.provider(reservation.num_bytes + budget.left_bytes, self._gpu.graphs)
        session, kernels = open_fused(graph, ops, provider, num_threads)
        shapes = self._history_length, self._gpu.buckets
        return DeviceRunner(session, self._gpu.accelerator, stream, *shapes, self._gpu.graphs, reservation), kernels

    def open_explainer(self, graph: bytes, output: str, num_threads: int) -> TurnRunner:
        """Return what runs the explanation, in shapes as they come; raises what `open_ranker` does."""
        stream = self._gpu.accelerator.stream()
        reservation = self._gpu.budget.reserve(_FIXED_BYTES, "explanations")
        session = open_session(graph, stream.provider(reservation.num_bytes, False), num_threads)
        return TurnRunner(session, output, (stream, reservation))

    def _needed_bytes(self, graph: bytes) -> int:
        """Return what a ranker takes at most: weights as they come and as kernels pack them, values, buffers."""
        widths = [spec.width for spec in self._specs]
        width = max(*widths, _WIDTHS * min(widths))
        rows = max(users * candidates for users, candidates in self._gpu.buckets.shapes)
        return _FIXED_BYTES + 2 * len(graph) + 4 * _LIVE_VALUES * rows * width
