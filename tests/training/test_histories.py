from pathlib import Path

import torch

from tests.training.clicks import small_recipe
from training.checkpoint import load_checkpoint
from training.histories import thinned
from training.model import Batch
from training.trainer import train


def make_batch(num_rows: int = 500, length: int = 64) -> Batch:
    row = torch.arange(num_rows)
    history = torch.arange(1, length + 1).repeat(num_rows, 1)
    return Batch(row, history, torch.stack([row, row], 1), (row % 2).float())


def test_the_share_is_left_out_and_nothing_moves() -> None:
    """What is left stays where it was, with candidate, levels and label; on average the share is gone."""
    torch.manual_seed(1)
    before = make_batch()
    after = thinned(before, 0.2)
    gone = after.history == 0
    assert torch.equal(torch.where(gone, before.history, after.history), before.history)
    assert 0.18 < gone.float().mean() < 0.22
    for name in ("candidate", "levels", "label"):
        assert getattr(after, name) is getattr(before, name)


def test_rows_lose_different_shares() -> None:
    """From nearly nothing to nearly twice the share, as one probability for all rows would not give."""
    torch.manual_seed(2)
    lost = (thinned(make_batch(), 0.4).history == 0).float().mean(1)
    assert lost.min() < 0.05
    assert lost.max() > 0.75
    assert ((lost > 0.1) & (lost < 0.7)).float().mean() > 0.5


def test_padding_stays_padding() -> None:
    """An empty history stays empty."""
    batch = make_batch()
    empty = batch._replace(history=torch.zeros_like(batch.history))
    assert not thinned(empty, 0.3).history.any()


def test_a_recipe_that_thins_trains_on_other_histories(clicks: Path, tmp_path: Path) -> None:
    """From the same seed its weights end elsewhere; run again, they end alike."""
    for name, setting in (("first", 0.2), ("again", 0.2), ("without", 0.0)):
        train(clicks, tmp_path / name, small_recipe("epochs=1", f"history_dropout={setting}"))
    first, again, without = (
        load_checkpoint(tmp_path / name).model.output.weight for name in ("first", "again", "without")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, without)
