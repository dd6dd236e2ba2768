"""What can go wrong between a bundle and its scores.

ScoringError
├── DeviceError        the device that was asked for is not the one that runs, or it failed
├── DeviceMemoryError  tables or weights need more of the device's memory than may be had
├── GraphError         a graph of the bundle does not load or run, or is not of the shape that the manifest states
├── KernelError        fused kernels were asked for, and an operation runs without one
└── ParityError        golden rows do not give the golden outputs
"""

from collections.abc import Sequence


class ScoringError(Exception):
    """A bundle cannot be turned into scores."""


class DeviceError(ScoringError):
    """The device that was asked for is not the one that runs, or it failed while it ran.

    Parameters
    ----------
    message
        What failed.
    lasting
        Whether nothing will run on it any more in this process, rather than only what was asked for now.
    """

    def __init__(self, message: str, *, lasting: bool = True) -> None:
        super().__init__(message)
        self.lasting = lasting


class DeviceMemoryError(ScoringError):
    """Something needs more of the device's memory than may be had."""

    def __init__(self, purpose: str, needed: int, available: int, where: str) -> None:
        super().__init__(
            f"{purpose} need {needed / 2**20:,.0f} MiB of device memory; {available / 2**20:,.0f} {where}"
        )
        self.needed, self.available = needed, available


class GraphError(ScoringError):
    """A graph of the bundle cannot be loaded or run."""


class KernelError(ScoringError):
    """Fused kernels were asked for, and operations would run without one; `ops` is empty if the graph has none."""

    def __init__(self, ops: Sequence[str], reason: str) -> None:
        what = f"{' and '.join(ops)} would run unfused: {reason}" if ops else "its ranker has no fused operations"
        super().__init__(f"fused kernels are required, but {what}")
        self.ops = tuple(ops)


class ParityError(ScoringError):
    """An output is further from the golden one than the bundle's tolerance allows."""

    def __init__(self, output: str, error: float, tolerance: float, where: tuple[int, ...]) -> None:
        super().__init__(f"{output} is off by {error:.3g} at {where}; {tolerance:.3g} is allowed")
        self.output, self.error, self.tolerance, self.where = output, error, tolerance, where
