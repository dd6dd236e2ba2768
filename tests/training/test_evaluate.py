from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from contract.mmctr import MmctrError
from tests.training.clicks import replace_column, small_recipe, write_data
from training.checkpoint import load_checkpoint
from training.dataset import read_dataset
from training.errors import CheckpointError, DataError
from training.evaluate import score_checkpoint
from training.trainer import train


@pytest.fixture(scope="module")
def checkpoint(clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short run's checkpoint."""
    out = tmp_path_factory.mktemp("evaluated")
    train(clicks, out, small_recipe("epochs=1"))
    return out


def test_scores_come_in_row_order(clicks: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's score is the model's own, however rows fall into batches."""
    monkeypatch.setattr("training.evaluate.PREDICTED_ROWS", 100)
    scores, labels = score_checkpoint(checkpoint, clicks / "valid.parquet", clicks / "item_info.parquet")
    data, model = read_dataset(clicks, 64), load_checkpoint(checkpoint).model
    with torch.no_grad():
        expected = model(data.catalogue.items, data.valid.batch(slice(None)))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected.numpy(), rtol=0, atol=1e-6)
    assert labels is not None
    assert labels.tolist() == pq.read_table(clicks / "valid.parquet")["label"].to_pylist()


def test_rows_without_labels_are_scored(own_clicks: Path, checkpoint: Path) -> None:
    """Test rows have none, and need none."""
    table = pq.read_table(own_clicks / "valid.parquet")
    pq.write_table(table.drop_columns(["label"]), own_clicks / "test.parquet")
    scores, labels = score_checkpoint(checkpoint, own_clicks / "test.parquet", own_clicks / "item_info.parquet")
    assert labels is None
    assert scores.shape == (len(table),)
    assert ((scores > 0) & (scores < 1)).all()


def test_items_that_were_not_trained_on_are_scored_by_their_features(tmp_path: Path, checkpoint: Path) -> None:
    """Ids outside the vocabulary are cold, not wrong: scores still tell items apart."""
    folder = write_data(tmp_path, num_rows=400, num_items=300, seed=9)
    scores, _ = score_checkpoint(checkpoint, folder / "valid.parquet", folder / "item_info.parquet")
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 50


def test_an_item_outside_item_info_is_refused(own_clicks: Path, checkpoint: Path) -> None:
    """Evaluation is as strict as training, for the items are given with the rows."""
    replace_column(own_clicks / "valid.parquet", "item_id", 5, 77_777)
    with pytest.raises(DataError, match="item_id of row 5 is 77777, which item_info does not hold"):
        score_checkpoint(checkpoint, own_clicks / "valid.parquet", own_clicks / "item_info.parquet")


def test_what_is_missing_is_named(clicks: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Checkpoint, rows or items."""
    rows, items = clicks / "valid.parquet", clicks / "item_info.parquet"
    with pytest.raises(CheckpointError, match="does not exist"):
        score_checkpoint(tmp_path, rows, items)
    with pytest.raises(MmctrError, match=r"none\.parquet does not exist"):
        score_checkpoint(checkpoint, tmp_path / "none.parquet", items)
    with pytest.raises(MmctrError, match="has no column item_tags"):
        score_checkpoint(checkpoint, rows, rows)
