from pathlib import Path

import torch

from tests.training.clicks import small_recipe
from training.checkpoint import load_checkpoint
from training.model import Batch
from training.negatives import exchanged
from training.trainer import train


def make_batch(num_rows: int = 200) -> Batch:
    """Return clicks whose candidate, history and levels betray their row; every fifth one is positive."""
    row = torch.arange(1, num_rows + 1)
    label = (row % 5 == 0).float()
    return Batch(row, torch.stack([row + 1000, row + 2000], 1), torch.stack([row, row + 1], 1), label)


def test_only_negative_rows_change_hands() -> None:
    """Positives, histories and labels stay; negatives are the same ones in another order, with their own levels."""
    torch.manual_seed(1)
    before = make_batch()
    after = exchanged(before)
    assert before.label is not None
    assert after.label is not None
    positive = before.label == 1
    assert torch.equal(after.candidate[positive], before.candidate[positive])
    assert torch.equal(after.history, before.history)
    assert torch.equal(after.label, before.label)
    assert torch.equal(after.candidate.sort().values, before.candidate)
    assert torch.equal(after.levels[:, 0], after.candidate)
    assert (after.candidate != before.candidate).sum() > 100


def test_a_row_is_not_given_what_is_in_its_history() -> None:
    """It keeps its own candidate then."""
    before = make_batch()
    history = torch.arange(1, 201).repeat(200, 1)
    everything_but_its_own = torch.where(history == before.candidate.unsqueeze(1), 0, history)
    after = exchanged(before._replace(history=everything_but_its_own))
    assert torch.equal(after.candidate, before.candidate)
    assert torch.equal(after.levels, before.levels)


def test_positives_alone_and_negatives_alone_are_taken() -> None:
    """A batch of one class is no special case."""
    batch = make_batch(10)
    assert torch.equal(exchanged(batch._replace(label=torch.ones(10))).candidate, batch.candidate)
    torch.manual_seed(2)
    assert not torch.equal(exchanged(batch._replace(label=torch.zeros(10))).candidate, batch.candidate)


def test_the_generator_decides_the_order() -> None:
    """The same state of torch's generator deals alike, the next one differently."""
    batch = make_batch()
    torch.manual_seed(3)
    first, second = exchanged(batch), exchanged(batch)
    torch.manual_seed(3)
    assert torch.equal(exchanged(batch).candidate, first.candidate)
    assert not torch.equal(second.candidate, first.candidate)


def test_a_recipe_that_exchanges_trains_on_other_rows(clicks: Path, tmp_path: Path) -> None:
    """From the same seed its weights end elsewhere; run again, they end alike."""
    for name, setting in (("first", "true"), ("again", "true"), ("without", "false")):
        train(clicks, tmp_path / name, small_recipe("epochs=1", f"exchange_negatives={setting}"))
    first, again, without = (
        load_checkpoint(tmp_path / name).model.output.weight for name in ("first", "again", "without")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, without)
