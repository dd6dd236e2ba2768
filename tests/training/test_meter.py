import numpy as np
import pytest
import torch

from training.meter import Meter
from training.step import StepResult


def result(loss: float) -> StepResult:
    return StepResult(torch.tensor(loss), torch.tensor(0.5), torch.tensor(2.0))


def test_means_are_over_rows() -> None:
    """A step counts by its rows."""
    meter = Meter(torch.device("cpu"))
    meter.add(result(1.0), 30)
    meter.add(result(2.0), 10)
    assert meter.means() == pytest.approx([1.25, 0.5, 2.0])
    assert meter.last() == pytest.approx([2.0, 0.5, 2.0])


def test_a_figure_that_was_not_finite_is_seen_later_too() -> None:
    """Where not every step is looked at, none is overlooked."""
    meter = Meter(torch.device("cpu"))
    meter.add(result(float("nan")), 30)
    meter.add(result(2.0), 10)
    assert np.isfinite(meter.last()).tolist() == [False, True, True]
