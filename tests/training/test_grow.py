from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contract.mmctr import ItemInfo, read_items
from tests.training.clicks import replace_column, small_recipe, write_data
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.errors import CheckpointError, DataError, RecipeError, ResumeError
from training.evaluate import score_checkpoint
from training.grow import grow_features, recipe_for, recipe_of
from training.recipes import get_recipe, with_settings
from training.trainer import train

NUM_NEW = 500


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return data and a checkpoint trained on them, which no test may change."""
    folder = tmp_path_factory.mktemp("first")
    data = write_data(folder / "data", num_rows=1000, num_items=60)
    train(data, folder / "run", small_recipe("epochs=2"))
    return data, folder / "run"


def write_newer(folder: Path, data: Path) -> Path:
    """Write the next day: the old items but one, 500 new ones below and above the old ids, new tags, new clicks."""
    old = read_items(data / "item_info.parquet")
    generator = np.random.default_rng(8)
    free = np.setdiff1d(np.arange(1, 3000), old.item_id)
    ids = np.concatenate([old.item_id[:-1], generator.choice(free, NUM_NEW, replace=False)])
    tags = np.concatenate([old.tags[:-1], generator.integers(0, 60, (NUM_NEW, 5))])
    embedding = np.concatenate([old.embedding[:-1], generator.normal(size=(NUM_NEW, 8)).astype(np.float32)])
    folder.mkdir()
    columns = {"item_id": ids, "item_tags": list(tags), "item_emb_d128": list(embedding)}
    pq.write_table(pa.table(columns), folder / "item_info.parquet")
    for name, num in (("train", 600), ("valid", 300)):
        rows = {
            "user_id": np.arange(num),
            "item_id": generator.choice(ids, num),
            "item_seq": list(generator.choice(ids, (num, 8))),
            "likes_level": generator.integers(0, 11, num),
            "views_level": generator.integers(0, 11, num),
            "label": generator.integers(0, 2, num),
        }
        pq.write_table(pa.table(rows), folder / f"{name}.parquet")
    return folder


def without_epochs(first: tuple[Path, Path], folder: Path) -> Path:
    """Grow the checkpoint by the next day and train nothing."""
    newer = write_newer(folder / "newer", first[0])
    train(newer, folder / "grown", small_recipe("epochs=0"), start=first[1])
    return folder / "grown"


def test_growing_changes_no_score_of_what_was_known(first: tuple[Path, Path], tmp_path: Path) -> None:
    """Without an epoch, every old row is scored to the bit as before; weights and old rows are the same."""
    grown = without_epochs(first, tmp_path)
    items, rows = first[0] / "item_info.parquet", first[0] / "valid.parquet"
    before, _ = score_checkpoint(first[1], rows, items, device="cpu")
    after, _ = score_checkpoint(grown, rows, items, device="cpu")
    assert np.array_equal(before, after)
    old, new = load_checkpoint(first[1]), load_checkpoint(grown)
    for name, weight in old.model.state_dict().items():
        assert torch.equal(new.model.state_dict()[name][: len(weight)] if weight.ndim else weight, weight), name


def test_new_items_and_tags_have_rows_behind_the_old_ones(first: tuple[Path, Path], tmp_path: Path) -> None:
    """An item that is gone keeps its row; new rows are initialised as a new model's are."""
    grown, old = load_checkpoint(without_epochs(first, tmp_path)), load_checkpoint(first[1])
    num_old = old.info.features.num_items
    assert grown.vocabulary[:num_old].tolist() == old.vocabulary.tolist()
    new_ids = grown.vocabulary[num_old:]
    assert len(new_ids) == NUM_NEW
    assert (np.diff(new_ids) > 0).all()
    assert new_ids[0] < old.vocabulary[1:].max()
    assert (grown.info.features.num_tags, old.info.features.num_tags) == (60, 30)
    rows = grown.model.item_embedding.weight[num_old:]
    assert 0.5e-4 < rows.std() < 2e-4
    assert not torch.equal(rows[0], rows[1])
    assert grown.info.epoch == 0
    assert grown.info.start is not None


def test_training_goes_on_with_what_is_new(first: tuple[Path, Path], tmp_path: Path) -> None:
    """New rows learn; the weights that it went on from count as epoch 0, and are kept where no epoch is better."""
    newer = write_newer(tmp_path / "newer", first[0])
    replay = small_recipe("epochs=2")
    summary = train(newer, tmp_path / "run", replay, start=first[1])
    last = load_checkpoint(tmp_path / "run")
    assert summary.epochs == 2
    before = load_checkpoint(without_epochs(first, tmp_path / "zero") if (tmp_path / "zero").mkdir() is None else "")
    assert summary.auc >= before.info.auc
    if summary.best_epoch:
        num_old = load_checkpoint(first[1]).info.features.num_items
        assert not torch.equal(
            last.model.item_embedding.weight[num_old:], before.model.item_embedding.weight[num_old:]
        )


def test_good_weights_are_kept_where_no_epoch_beats_them(
    first: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 0 is the best, and the checkpoint is the grown start."""
    areas = iter([0.9, 0.6, 0.7])
    monkeypatch.setattr("training.run.auc", lambda _label, _score: next(areas))
    summary = train(first[0], tmp_path, small_recipe("epochs=2"), start=first[1])
    assert (summary.best_epoch, summary.auc, summary.epochs) == (0, 0.9, 2)
    old, kept = (load_checkpoint(folder).model.state_dict() for folder in (first[1], tmp_path))
    assert all(torch.equal(kept[name], old[name]) for name in old)


class Interruption(BaseException):
    """Stands for Ctrl-C."""


def test_an_interrupted_run_goes_on_from_its_start(
    first: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in its first epoch it can be resumed, with the same --from and no other, and ends alike."""
    train(first[0], tmp_path / "whole", small_recipe("epochs=2"), start=first[1])

    def interrupted(*_: object) -> None:
        raise Interruption

    with monkeypatch.context() as broken:
        broken.setattr("training.run.Run.epoch", interrupted)
        with pytest.raises(Interruption):
            train(first[0], tmp_path / "run", small_recipe("epochs=2"), start=first[1])
    with pytest.raises(ResumeError, match="went on from another checkpoint"):
        train(first[0], tmp_path / "run", small_recipe("epochs=2"), resume=True)
    train(first[0], tmp_path / "run", small_recipe("epochs=2"), resume=True, start=first[1])
    whole, resumed = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_embeddings_of_another_width_are_refused(first: tuple[Path, Path], tmp_path: Path) -> None:
    """The message names both."""
    newer = write_newer(tmp_path / "newer", first[0])
    table = pq.read_table(newer / "item_info.parquet")
    wide = table.set_column(2, "item_emb_d128", [[[0.5] * 9] * len(table)])
    pq.write_table(wide, newer / "item_info.parquet")
    with pytest.raises(DataError, match="embeddings of width 9, the checkpoint takes 8"):
        train(newer, tmp_path / "run", small_recipe(), start=first[1])


def test_another_network_is_refused(first: tuple[Path, Path], tmp_path: Path) -> None:
    """The message names every size that differs; dropout is none of them."""
    with pytest.raises(
        RecipeError, match=r"embedding_dim is 4, the checkpoint's 8; num_layers is 3, the checkpoint's 2"
    ):
        train(first[0], tmp_path, small_recipe("embedding_dim=4", "num_layers=3"), start=first[1])
    train(first[0], tmp_path / "run", small_recipe("epochs=0", "dropout=0.5"), start=first[1])


def test_the_recipe_is_the_checkpoint_s_unless_another_is_named(first: tuple[Path, Path]) -> None:
    """With every setting that it was trained by."""
    assert recipe_for(None, first[1]) == small_recipe("epochs=2")
    assert recipe_for("tiny", first[1]) == get_recipe("tiny")
    assert recipe_for(None, None) == get_recipe("impressions")


def test_a_recipe_of_another_time_is_named(first: tuple[Path, Path], tmp_path: Path) -> None:
    """An imported checkpoint has no settings but its sizes; a setting that is none any more is told."""
    start = load_checkpoint(first[1])
    fields = start.info.model_dump()
    plain = CheckpointInfo.model_validate(fields | {"settings": {}})
    save_checkpoint(tmp_path / "plain", plain, start.model.state_dict(), start.vocabulary)
    assert recipe_of(load_checkpoint(tmp_path / "plain")).embedding_dim == 8
    odd = CheckpointInfo.model_validate(fields | {"settings": {"momentum": 0.9}})
    save_checkpoint(tmp_path / "odd", odd, start.model.state_dict(), start.vocabulary)
    with pytest.raises(RecipeError, match="name one with --recipe: momentum"):
        recipe_of(load_checkpoint(tmp_path / "odd"))


def test_no_epochs_are_for_growing_alone(first: tuple[Path, Path], tmp_path: Path) -> None:
    """A new model is not left untrained; and what to go on from must be there."""
    with pytest.raises(RecipeError, match="epochs=0 trains nothing"):
        train(first[0], tmp_path / "a", with_settings(get_recipe("tiny"), ["epochs=0"]))
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not exist"):
        train(first[0], tmp_path / "b", small_recipe(), start=tmp_path)


def test_levels_and_tag_slots_grow_too(first: tuple[Path, Path], tmp_path: Path) -> None:
    """An imported checkpoint may have fewer levels; items with fewer tag slots get empty ones."""
    start = load_checkpoint(first[1])
    fewer = start.info.features.model_copy(update={"num_likes_levels": 6, "max_tags": 7})
    weights = start.model.state_dict()
    weights["likes_embedding.weight"] = weights["likes_embedding.weight"][:6]
    save_checkpoint(tmp_path / "few", start.info.model_copy(update={"features": fewer}), weights, start.vocabulary)
    few = load_checkpoint(tmp_path / "few")
    growth = grow_features(few, read_items(first[0] / "item_info.parquet"), 8)
    assert (growth.schema.num_likes_levels, growth.schema.max_tags) == (11, 7)
    assert growth.items.tags.shape == (61, 7)
    assert not growth.items.tags[:, 5:].any()
    train(first[0], tmp_path / "run", small_recipe("epochs=0"), start=tmp_path / "few")
    grown = load_checkpoint(tmp_path / "run").model
    assert torch.equal(grown.likes_embedding.weight[:6], weights["likes_embedding.weight"])


def test_a_wrong_row_of_the_new_data_is_named(first: tuple[Path, Path], tmp_path: Path) -> None:
    """As in any training."""
    newer = write_newer(tmp_path / "newer", first[0])
    replace_column(newer / "train.parquet", "item_id", 5, 9999)
    with pytest.raises(DataError, match="item_id of row 5 is 9999, which item_info does not hold"):
        train(newer, tmp_path / "run", small_recipe(), start=first[1])


def test_no_new_items_are_no_growth(first: tuple[Path, Path]) -> None:
    """The same catalogue gives the same vocabulary and schema."""
    start = load_checkpoint(first[1])
    info: ItemInfo = read_items(first[0] / "item_info.parquet")
    growth = grow_features(start, info, 64)
    assert growth.schema == start.info.features
    assert growth.vocabulary.tolist() == start.vocabulary.tolist()
