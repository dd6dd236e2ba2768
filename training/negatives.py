"""Fresh negatives from old ones, where negatives were sampled.

A sampled negative says nothing of the user beside whom it stands: any other would have done as well. A network that
meets the same ones in every epoch learns them by heart all the same. docs/results.md says what that costs.
"""

import torch

from training.model import Batch


def exchanged(batch: Batch) -> Batch:
    """Return the batch with the candidates of its negative rows, levels included, dealt out anew among those rows.

    Every candidate stays a negative as often as it was one, and positives stay as they are. A row keeps its own
    candidate where the new one is in its history: what a user met is not sampled as a negative. The order is drawn
    from torch's generator. Wrong for impressions, where a negative is what this user saw and did not click.
    """
    assert batch.label is not None
    rows = (batch.label == 0).nonzero().squeeze(1)
    other = rows[torch.randperm(len(rows), device=rows.device)]
    met = (batch.history[rows] == batch.candidate[other].unsqueeze(1)).any(1)
    source = torch.arange(len(batch.candidate), device=rows.device)
    source[rows] = torch.where(met, rows, other)
    return batch._replace(candidate=batch.candidate[source], levels=batch.levels[source])
