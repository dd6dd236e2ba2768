"""What can go wrong between a bundle and its scores.

ScoringError
├── DeviceError     the device that was asked for is not the one that runs
├── GraphError      a graph of the bundle does not load, or is not of the shape that the manifest states
└── ParityError     golden rows do not give the golden outputs
"""


class ScoringError(Exception):
    """A bundle cannot be turned into scores."""


class DeviceError(ScoringError):
    """The device that was asked for is not the one that runs."""


class GraphError(ScoringError):
    """A graph of the bundle cannot be loaded."""


class ParityError(ScoringError):
    """An output is further from the golden one than the bundle's tolerance allows."""

    def __init__(self, output: str, error: float, tolerance: float, where: tuple[int, ...]) -> None:
        super().__init__(f"{output} is off by {error:.3g} at {where}; {tolerance:.3g} is allowed")
        self.output, self.error, self.tolerance, self.where = output, error, tolerance, where
