"""Histories with holes, so that a network does not know a training row by the whole of its history."""

import torch

from training.model import Batch


def thinned(batch: Batch, share: float) -> Batch:
    """Return the batch with items left out of its histories.

    Each row draws a probability between 0 and 2 `share`, and each of its history items is left out with that
    probability: some rows stay nearly whole, others lose most. Draws come from torch's generator. The pooled history
    is a sum, so a served history, which is whole, counts for more than most that were trained on.

    Parameters
    ----------
    share
        Of the history items, on average; 0 to 0.5.
    """
    shape, device = batch.history.shape, batch.history.device
    probability_B1 = torch.rand(shape[0], 1, device=device) * (2 * share)
    left_out_BH = torch.rand(shape, device=device) < probability_B1
    return batch._replace(history=batch.history.masked_fill(left_out_BH, 0))
