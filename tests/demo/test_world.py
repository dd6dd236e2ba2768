from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from contract.mmctr import read_clicks, read_items
from demo.world import make_world, write_data_set


def test_the_best_auc_is_that_of_the_true_probabilities(tmp_path: Path) -> None:
    """What the demo calls possible is what the generator's own probabilities reach on its validation rows."""
    world = make_world(num_items=200, num_users=100)
    data = write_data_set(world, tmp_path, num_train=500, num_valid=4000)
    clicks = read_clicks(data.valid, world.history.shape[1])
    truth = world.click_probability(clicks.history, clicks.item_id)
    assert abs(roc_auc_score(clicks.label, truth) - data.best_auc) < 1e-9
    assert 0.7 < data.best_auc < 0.95


def test_clicks_come_with_the_probability_that_is_claimed(tmp_path: Path) -> None:
    """Among rows of like probability, that share is clicked."""
    world = make_world(num_items=200, num_users=100)
    data = write_data_set(world, tmp_path, num_train=20_000, num_valid=100)
    clicks = read_clicks(data.train, world.history.shape[1])
    truth = world.click_probability(clicks.history, clicks.item_id)
    assert clicks.label is not None
    for low in np.arange(0, 1, 0.2):
        inside = (truth >= low) & (truth < low + 0.2)
        assert abs(clicks.label[inside].mean() - truth[inside].mean()) < 0.05


def test_the_world_has_the_hard_cases() -> None:
    """Tagless items, empty and full histories; item 0 is padding without features."""
    world = make_world()
    lengths = (world.history > 0).sum(1)
    assert (world.tags[1:].sum(1) == 0).any()
    assert lengths.min() == 0
    assert lengths.max() == world.history.shape[1]
    assert not world.tags[0].any()
    assert not world.embedding[0].any()


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    """A demo can be told again."""
    paths = [write_data_set(make_world(num_items=50, num_users=20), tmp_path / name, 100, 100) for name in ("a", "b")]
    assert paths[0].train.read_bytes() == paths[1].train.read_bytes()
    assert len(read_items(paths[0].items)) == 51
