from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.bundle import read_bundle
from contract.codec import item_records
from export.checkpoint import export_checkpoint
from scoring.evaluate import score_bundle
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from training.fuxictr import import_checkpoint

DATA = Path(__file__).parent.parent / "data"
FORMS = {
    "folded, layer 1 split": {},
    "folded": {"split_first_layer": False},
    "as published": {"fold_weights": False},
}


@pytest.fixture(scope="module")
def oracle() -> dict[str, np.ndarray]:
    """Inputs and outputs of the authors' own implementation."""
    with np.load(DATA / "qin_small.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def items(oracle: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle's items as an item_info file; item 0 has features on purpose."""
    path = tmp_path_factory.mktemp("oracle") / "item_info.parquet"
    tags, embedding = oracle["item/item_tags"], oracle["item/item_emb"]
    columns = {"item_id": np.arange(len(tags)), "item_tags": list(tags), "item_emb_d128": list(embedding)}
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module", params=FORMS.values(), ids=FORMS.keys())
def bundle(request: pytest.FixtureRequest, items: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' checkpoint, imported and published in one of the forms."""
    folder = tmp_path_factory.mktemp("bundle")
    import_checkpoint(DATA / "qin_small.model", DATA / "qin_small.feature_map.json", folder / "checkpoint")
    return export_checkpoint(folder / "checkpoint", items, folder / "store", **request.param)


def test_the_bundle_scores_as_the_authors_implementation(bundle: Path, oracle: dict[str, np.ndarray]) -> None:
    """All 64 rows, each a request of one candidate, within 2e-6 of the authors' float64."""
    scorer = Scorer(read_bundle(bundle))
    tags, embedding = oracle["item/item_tags"], oracle["item/item_emb"]
    rows = ItemRows(scorer, capacity=len(tags))
    rows.update(np.arange(len(tags)), item_records(tags, np.zeros((len(tags), 2)), embedding))
    levels = np.stack([oracle["input/likes_level"], oracle["input/views_level"]], axis=-1)[:, None]
    with rows.view() as view:
        histories = view.history_rows(oracle["input/item_seq"])
        scores = scorer.score(view.tables, view.rows(oracle["input/item_id"])[:, None], histories, levels)
    assert np.abs(scores - oracle["out64/y_pred"]).max() < 2e-6


def test_evaluate_agrees_row_by_row(bundle: Path, items: Path, oracle: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The same through parquet, as `qin evaluate --bundle` does it."""
    columns = {
        "user_id": np.arange(64),
        "item_id": oracle["input/item_id"],
        "item_seq": list(oracle["input/item_seq"]),
        "likes_level": oracle["input/likes_level"],
        "views_level": oracle["input/views_level"],
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    scores, _ = score_bundle(bundle, tmp_path / "rows.parquet", items)
    assert np.abs(scores - oracle["out64/y_pred"][:, 0]).max() < 2e-6
