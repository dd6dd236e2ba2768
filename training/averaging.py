"""Weights averaged over the steps of a run.

At a constant learning rate the weights wander about where they would like to be, which keeps them from learning the
training rows by heart; their average is where that is. docs/results.md says what it is worth.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from training.model import QIN


class WeightAverage:
    """The exponential moving average of a model's weights and BatchNorm statistics.

    Parameters
    ----------
    model
        What is trained.
    decay
        How much of the average each step keeps: about the last 1 / (1 - decay) steps count. The first steps keep
        less, (1 + n) / (10 + n) after n of them, so that the initial weights are soon forgotten.
    """

    def __init__(self, model: QIN, decay: float) -> None:
        self._decay = decay
        self._trained = model
        self.module = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)  # what a run is resumed from

    @property
    def model(self) -> QIN:
        """The model with the averaged weights: what is evaluated and kept."""
        model = self.module.module
        assert isinstance(model, QIN)
        return model

    def update(self) -> None:
        """Take in the weights as they are after a step."""
        self.module.update_parameters(self._trained)

    @torch.no_grad()
    def _mix(self, averaged: Sequence[Tensor], current: Sequence[Tensor], num_steps: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # BatchNorm counts its batches, for itself alone
            return
        steps = int(num_steps)
        share = 1 - min(self._decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(averaged), list(current), share)
