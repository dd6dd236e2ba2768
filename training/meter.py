"""Means over the rows of an epoch, of figures that are computed on a device."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.step import StepResult

_STEPS_BETWEEN_READS = 20


class Meter:
    """Adds up what each step reports; a GPU is asked for the sums now and then, since asking waits for its work."""

    def __init__(self, device: torch.device) -> None:
        self._every = 1 if device.type == "cpu" else _STEPS_BETWEEN_READS
        self._sums = torch.zeros(len(StepResult._fields), dtype=torch.float64, device=device)
        self._num_rows = self._num_steps = 0
        self._last: StepResult | None = None

    def add(self, result: StepResult, num_rows: int) -> None:
        """Take in the figures of a step over so many rows."""
        self._sums.add_(torch.stack([value.double() for value in result]), alpha=num_rows)
        self._num_rows += num_rows
        self._num_steps += 1
        self._last = result

    def is_due(self) -> bool:
        """Whether the last step is one whose figures are looked at."""
        return self._num_steps % self._every == 0

    def last(self) -> NDArray[np.float64]:
        """Return (3,) loss, L2 term and gradient norm of the last step, not finite if an earlier one's were not."""
        assert self._last is not None
        values = torch.stack([value.double() for value in self._last])
        return torch.where(torch.isfinite(self._sums), values, self._sums).cpu().numpy()

    def means(self) -> NDArray[np.float64]:
        """Return (3,) the means over all rows so far."""
        return (self._sums / self._num_rows).cpu().numpy()
