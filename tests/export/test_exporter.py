from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import export.exporter
from contract.bundle import EXPLAIN, list_versions, read_bundle
from export.errors import ExportError
from export.exporter import export_model
from export.fold import FoldedModel, fold
from scoring.errors import ParityError
from scoring.scorer import Scorer
from tests.fakes import make_items, make_trained

Spoil = Callable[[FoldedModel], FoldedModel]


def test_every_hard_case_is_among_the_golden_rows(tmp_path: Path) -> None:
    """Tagless, repeated and unknown tags, item 0, a cold item; empty, full, repeating and holed histories."""
    bundle = read_bundle(export_model(make_trained(), make_items(), tmp_path))
    golden, schema = bundle.golden, bundle.manifest.features
    num_tags = (golden.tags > 0).sum(1)
    assert (num_tags == 0).any()
    assert any(len(set(tags[tags > 0])) < (tags > 0).sum() for tags in golden.tags)
    assert (golden.tags >= schema.num_tags).any()
    assert 0 in golden.item_id
    assert not np.isin(golden.item_id, bundle.vocabulary).all()
    assert golden.embedding[golden.item_id == 0].any()
    lengths = (golden.history_rows > 0).sum(1)
    assert 0 in lengths
    assert schema.history_length in lengths
    assert any(len(set(row)) < len(row) for row in golden.history_rows[lengths == schema.history_length])
    assert (golden.candidate_rows == 0).any()


@pytest.mark.parametrize("form", [{"split_first_layer": True}, {"split_first_layer": False}, {"fold_weights": False}])
def test_every_form_scores_as_torch_does(tmp_path: Path, form: dict[str, bool]) -> None:
    """Folded, split and as published: the bundle's own golden check passes in ONNX Runtime."""
    bundle = read_bundle(export_model(make_trained(num_layers=3, num_rows=3), make_items(), tmp_path, **form))
    assert bundle.manifest.tolerance.scores < 1e-5
    Scorer(bundle).verify()


def test_a_score_may_err_by_2e_6_where_float32_allows(tmp_path: Path) -> None:
    """The tolerance widens only for a network whose own float32 is worse."""
    bundle = read_bundle(export_model(make_trained(), make_items(), tmp_path))
    assert 2e-6 <= bundle.manifest.tolerance.scores < 5e-6


def test_the_manifest_says_where_the_bundle_comes_from(tmp_path: Path) -> None:
    """Version, schema, tables, ops and provenance are there to be read."""
    path = export_model(make_trained(), make_items(), tmp_path, "films")
    manifest = read_bundle(path).manifest
    assert (manifest.model, manifest.version) == ("films", path.name)
    assert manifest.qin_ops == {"qin.SparseTargetAttention": 2, "qin.QuadraticTower": 2}
    assert (manifest.precision, manifest.measured) == ("float32", None)
    assert manifest.provenance.recipe == "random"
    assert [table.name for table in manifest.tables] == ["target", "key", "value", "input_part", "history_part"]


def test_the_published_form_has_no_fused_operations(tmp_path: Path) -> None:
    """Without the fold there is nothing to explain apart and no op of ours."""
    manifest = read_bundle(export_model(make_trained(), make_items(), tmp_path, fold_weights=False)).manifest
    assert not manifest.folded
    assert manifest.qin_ops == {}
    assert EXPLAIN not in manifest.files


def attention(**changes: object) -> Spoil:
    return lambda folded: replace(folded, attention=replace(folded.attention, **changes))


def spoiled_tower(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    return lambda folded: replace(folded, tower=replace(folded.tower, **{name: change(getattr(folded.tower, name))}))


def spoiled_part(name: str) -> Spoil:
    return lambda folded: replace(
        folded, first_layer=replace(folded.first_layer, **{name: getattr(folded.first_layer, name) * 1.001})
    )


SPOILERS: dict[str, Spoil] = {
    "key transposed": lambda folded: attention(key=folded.attention.key.T)(folded),
    "value scaled": lambda folded: attention(value=folded.attention.value * 1.001)(folded),
    "no shift": spoiled_tower("shift", np.zeros_like),
    "slopes made positive": spoiled_tower("slope", np.abs),
    "bias of the output lost": spoiled_tower("output_bias", np.zeros_like),
    "likes part": spoiled_part("likes"),
    "views part": spoiled_part("views"),
    "input part": spoiled_part("input"),
    "history part": spoiled_part("history"),
    "tags shifted": lambda folded: replace(folded, tag=np.roll(folded.tag, 1, axis=0)),
    "items shifted": lambda folded: replace(folded, item=np.roll(folded.item, 1, axis=0)),
    "item 0 not a zero vector": lambda folded: replace(folded, item=folded.item + (np.arange(200) == 0)[:, None]),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS.keys())
def test_a_bundle_that_differs_is_not_published(
    spoil: Spoil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold gone wrong anywhere is found, named with its size, and leaves the store empty."""
    monkeypatch.setattr(export.exporter, "fold", lambda network: spoil(fold(network)))
    with pytest.raises(ParityError, match=r"(scores|weights) is off by \S+ at \(\d+, \d+(, \d+)?\); \S+ is allowed"):
        export_model(make_trained(), make_items(), tmp_path)
    assert list_versions(tmp_path, "qin") == []
    assert list((tmp_path / "qin").iterdir()) == []


def test_items_of_another_width_are_refused(tmp_path: Path) -> None:
    """A catalogue that the model was not trained with is an error, not a crash in a graph."""
    with pytest.raises(ExportError, match="width 9 and 5 tag slots; the model was trained with 8 and 5"):
        export_model(make_trained(), make_items(embedding_width=9), tmp_path)


def test_a_model_that_diverged_is_refused(tmp_path: Path) -> None:
    """NaN weights never reach a store."""
    trained = make_trained()
    with torch.no_grad():
        trained.network.output.bias.fill_(float("nan"))
    with pytest.raises(ExportError, match="diverged"):
        export_model(trained, make_items(), tmp_path)


def test_one_item_is_catalogue_enough(tmp_path: Path) -> None:
    """A catalogue too small to sample from still exports."""
    export_model(make_trained(num_items=2, num_tags=3), make_items(2, 3), tmp_path)
    assert len(list_versions(tmp_path, "qin")) == 1
