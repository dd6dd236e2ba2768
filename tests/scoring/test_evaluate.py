from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.bundle import BundleNotFoundError
from contract.mmctr import ItemInfo, MmctrError
from export.exporter import export_model
from scoring.evaluate import score_bundle
from tests.fakes import make_bundle, make_items, make_trained


def write_items(path: Path, items: ItemInfo) -> Path:
    columns = {"item_id": items.item_id, "item_tags": list(items.tags), "item_emb_d128": list(items.embedding)}
    pq.write_table(pa.table(columns), path)
    return path


def write_clicks(path: Path, items: list[int], histories: list[list[int]]) -> Path:
    zeros = [0] * len(items)
    columns = {
        "user_id": zeros,
        "item_id": items,
        "item_seq": histories,
        "likes_level": zeros,
        "views_level": zeros,
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights for items 0 to 199."""
    return make_bundle(tmp_path_factory.mktemp("store"))


def test_rows_are_scored_in_row_order_and_without_labels(bundle: Path, tmp_path: Path) -> None:
    """One score per row, whichever batch it falls into; no labels where the file has none."""
    items = write_items(tmp_path / "items.parquet", make_items())
    generator = np.random.default_rng(1)
    candidates = generator.integers(0, 200, 1200).tolist()
    histories = generator.integers(0, 200, (1200, 8)).tolist()
    scores, labels = score_bundle(bundle, write_clicks(tmp_path / "a.parquet", candidates, histories), items)
    backwards, _ = score_bundle(
        bundle, write_clicks(tmp_path / "b.parquet", candidates[::-1], histories[::-1]), items
    )
    assert labels is None
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, backwards[::-1], atol=1e-6)
    assert scores.std() > 0.05


@pytest.mark.parametrize(
    ("candidates", "histories", "complaint"),
    [
        ([5, 777], [[1], [2]], "item_id of row 1 is 777, which the item file does not hold"),
        ([5, 6], [[0, 1], [888, 2]], "item_seq of row 1 is 888, which the item file does not hold"),
    ],
)
def test_an_item_without_features_is_refused(
    bundle: Path, tmp_path: Path, candidates: list[int], histories: list[list[int]], complaint: str
) -> None:
    """A silent zero vector would pass for a score: the row and the id are named instead."""
    items = write_items(tmp_path / "items.parquet", make_items())
    with pytest.raises(MmctrError, match=complaint):
        score_bundle(bundle, write_clicks(tmp_path / "clicks.parquet", candidates, histories), items)


def test_items_outside_the_vocabulary_are_cold_but_scored(bundle: Path, tmp_path: Path) -> None:
    """An id that the item file holds and training never saw is scored by its tags and embedding."""
    known = make_items()
    cold = ItemInfo(
        np.append(known.item_id, 5000),
        np.vstack([known.tags, known.tags[-1:]]),
        np.vstack([known.embedding, known.embedding[-1:]]),
    )
    items = write_items(tmp_path / "items.parquet", cold)
    scores, _ = score_bundle(bundle, write_clicks(tmp_path / "c.parquet", [5000, 199], [[3], [3]]), items)
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]


def test_items_of_another_width_are_refused(bundle: Path, tmp_path: Path) -> None:
    """The message tells both widths."""
    items = write_items(tmp_path / "items.parquet", make_items(embedding_width=9))
    with pytest.raises(MmctrError, match="width 9 and 5 tag slots; the bundle takes 8 and 5"):
        score_bundle(bundle, write_clicks(tmp_path / "c.parquet", [1], [[2]]), items)


def test_a_level_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    """A model of six likes levels cannot score a row of level 7."""
    bundle = export_model(make_trained(num_likes_levels=6), make_items(), tmp_path / "store")
    clicks = {"user_id": [1], "item_id": [2], "item_seq": [[3]], "likes_level": [7], "views_level": [7]}
    pq.write_table(pa.table(clicks), tmp_path / "c.parquet")
    items = write_items(tmp_path / "items.parquet", make_items())
    with pytest.raises(MmctrError, match=r"row 0 has levels \[7, 7\]; the model has 6 likes and 11 views levels"):
        score_bundle(bundle, tmp_path / "c.parquet", items)


def test_no_bundle_is_an_error_of_its_own(tmp_path: Path) -> None:
    """A wrong folder is named."""
    with pytest.raises(BundleNotFoundError, match="no bundle at"):
        score_bundle(tmp_path, tmp_path / "c.parquet", tmp_path / "i.parquet")
