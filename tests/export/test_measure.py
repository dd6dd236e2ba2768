import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from rich.console import Console
from typer.testing import CliRunner

import export.exporter
import export.graph
import qin
from contract.bundle import RANKER, list_versions, read_bundle
from contract.manifest import Precision
from contract.mmctr import MmctrError
from export.errors import ExportError
from export.exporter import export_model
from export.fold import fold
from export.precision import weight_tensors
from scoring.errors import ParityError
from scoring.evaluate import score_clicks
from scoring.scorer import Scorer
from tests.fakes import make_bundle, make_items, make_trained, write_clicks
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.metrics import auc

REDUCED: list[Precision] = ["bfloat16", "int8"]


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled clicks on the items of `make_items`."""
    return write_clicks(tmp_path_factory.mktemp("clicks") / "valid.parquet")


def refused(store: Path) -> bool:
    """Tell whether nothing was published and nothing was left behind."""
    folder = store / "qin"
    return list_versions(store, "qin") == [] and (not folder.exists() or list(folder.iterdir()) == [])


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("precision", REDUCED)
def test_a_reduced_bundle_scores_close_to_float32(
    precision: Precision, split: bool, clicks: Path, tmp_path: Path
) -> None:
    """It is smaller, not the same, near, and passes the golden check that every start runs."""
    reduced, whole = (
        read_bundle(make_bundle(tmp_path / name, precision=name, split_first_layer=split, num_layers=3))
        for name in (precision, "float32")
    )
    assert len(reduced.graph(RANKER)) < len(whole.graph(RANKER))
    items = make_items()
    near, exact = (score_clicks(Scorer(bundle), clicks, items)[0] for bundle in (reduced, whole))
    assert 1e-6 < np.abs(near - exact).max() < 0.1
    Scorer(reduced).verify()


@pytest.mark.parametrize("precision", REDUCED)
def test_the_manifest_tells_what_a_precision_costs(precision: Precision, clicks: Path, tmp_path: Path) -> None:
    """AUC beside that of float32, the error of golden scores, and a tolerance that follows from it."""
    trained, items = make_trained(), make_items()
    path = export_model(trained, items, tmp_path, precision=precision, validation=clicks, max_auc_loss=1)
    bundle, plain = read_bundle(path), read_bundle(export_model(trained, items, tmp_path / "plain"))
    manifest, measured = bundle.manifest, bundle.manifest.measured
    assert manifest.precision == precision
    assert measured is not None
    assert measured.num_rows == 300
    for scored, told in ((bundle, measured.auc), (plain, measured.auc_float32)):
        scores, labels = score_clicks(Scorer(scored), clicks, items)
        assert labels is not None
        assert told == auc(labels, scores)
    assert 1e-5 < measured.max_score_error < 0.05
    assert manifest.tolerance.scores == pytest.approx(3 * measured.max_score_error)
    assert manifest.tolerance.weights == plain.manifest.tolerance.weights


def test_float32_is_measured_where_there_are_rows(clicks: Path, tmp_path: Path) -> None:
    """It loses nothing to itself, keeps its strict tolerance and needs no rows."""
    plain = read_bundle(make_bundle(tmp_path / "plain")).manifest
    path = export_model(make_trained(), make_items(), tmp_path, validation=clicks, max_auc_loss=0)
    manifest = read_bundle(path).manifest
    assert manifest.measured is not None
    assert manifest.measured.auc == manifest.measured.auc_float32
    assert 0 < manifest.measured.max_score_error <= manifest.tolerance.scores
    assert manifest.tolerance == plain.tolerance
    assert plain.measured is None


@pytest.mark.parametrize("precision", REDUCED)
def test_a_network_without_matrices_has_nothing_to_reduce(precision: Precision, tmp_path: Path) -> None:
    """One layer, looked up: any precision is float32."""
    manifest = read_bundle(make_bundle(tmp_path, precision=precision, num_layers=1)).manifest
    assert manifest.measured is not None
    assert manifest.measured.auc == manifest.measured.auc_float32
    assert manifest.measured.max_score_error < 2e-6


@pytest.mark.parametrize("precision", REDUCED)
def test_a_precision_that_loses_too_much_is_not_published(precision: Precision, clicks: Path, tmp_path: Path) -> None:
    """The refusal tells the loss, both AUCs and what would be allowed."""
    with pytest.raises(ExportError, match=rf"{precision} loses \S+ of AUC on 300 .* --max-auc-loss allows -0.5"):
        export_model(
            make_trained(), make_items(), tmp_path, precision=precision, validation=clicks, max_auc_loss=-0.5
        )
    assert refused(tmp_path)


@pytest.mark.parametrize("precision", REDUCED)
def test_matrices_that_do_not_survive_are_refused(
    precision: Precision, clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A precision whose golden scores are off by a quarter does not suit, whatever its AUC."""

    def spoiled(weight: NDArray[np.float64], precision: Precision) -> list[TensorProto]:
        return weight_tensors(weight if precision == "float32" else weight * -5, precision)

    monkeypatch.setattr(export.graph, "weight_tensors", spoiled)
    with pytest.raises(ExportError, match=rf"{precision} does not suit this network: a golden score is off by 0\.\d"):
        export_model(make_trained(), make_items(), tmp_path, precision=precision, validation=clicks, max_auc_loss=1)
    assert refused(tmp_path)


@pytest.mark.parametrize("precision", ["float32", *REDUCED])
def test_a_wrong_fold_does_not_hide_behind_a_precision(
    precision: Precision, clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that a reduced precision's tolerance would allow is found in the float32 form of the same fold."""

    def spoiled(network: object) -> object:
        folded = fold(network)
        return replace(folded, attention=replace(folded.attention, value=folded.attention.value * 1.001))

    monkeypatch.setattr(export.exporter, "fold", spoiled)
    with pytest.raises(ParityError, match="scores is off"):
        export_model(make_trained(), make_items(), tmp_path, precision=precision, validation=clicks, max_auc_loss=1)
    assert refused(tmp_path)


def test_a_reduced_precision_needs_validation_rows(tmp_path: Path) -> None:
    """What it costs has to be measured: the option is named."""
    with pytest.raises(ExportError, match=r"precision int8 .* name a file with --validation"):
        export_model(make_trained(), make_items(), tmp_path, precision="int8")
    assert refused(tmp_path)


def test_the_published_form_has_no_reduced_precision(clicks: Path, tmp_path: Path) -> None:
    """It is there to be compared with, in float32."""
    with pytest.raises(ExportError, match="bfloat16 is for the folded form alone: leave out --no-fold"):
        export_model(
            make_trained(), make_items(), tmp_path, fold_weights=False, precision="bfloat16", validation=clicks
        )
    assert refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda table: table.drop_columns("label"), "it has no column label"),
        (lambda table: table.slice(0, 0), "it has no rows"),
        (
            lambda table: table.set_column(5, "label", pa.array(np.ones(300))),
            "all its labels are 1, so there is no AUC",
        ),
        (lambda table: table.set_column(5, "label", pa.array(np.full(300, 0.5))), "a label is neither 0 nor 1"),
    ],
)
def test_rows_without_an_auc_cannot_validate(change: Callable, complaint: str, clicks: Path, tmp_path: Path) -> None:
    """The file and what it lacks are named before anything is scored."""
    file = tmp_path / "odd.parquet"
    pq.write_table(change(pq.read_table(clicks)), file)
    with pytest.raises(ExportError, match=rf"odd\.parquet cannot validate: {complaint}"):
        export_model(make_trained(), make_items(), tmp_path / "store", precision="int8", validation=file)
    assert refused(tmp_path / "store")


def test_clicks_on_items_that_are_not_there_cannot_validate(tmp_path: Path) -> None:
    """Validation rows and items belong together."""
    file = write_clicks(tmp_path / "more.parquet", num_items=400)
    with pytest.raises(MmctrError, match="which the item file does not hold"):
        export_model(make_trained(), make_items(), tmp_path / "store", precision="int8", validation=file)
    assert refused(tmp_path / "store")


def test_the_command_line_tells_what_was_measured(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AUC goes to stderr, so that stdout is the version and nothing else."""
    trained, catalogue = make_trained(), make_items()
    info = CheckpointInfo(features=trained.network.schema, config=trained.network.config, recipe="random")
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run", info, trained.network.state_dict(), trained.vocabulary)
    columns = {"item_id": catalogue.item_id, "item_tags": list(catalogue.tags)}
    pq.write_table(pa.table(columns | {"item_emb_d128": list(catalogue.embedding)}), tmp_path / "items.parquet")
    arguments = ["export", "--checkpoint", tmp_path / "run", "--items", tmp_path / "items.parquet"]
    options = ["--store", tmp_path / "store", "--precision", "bfloat16", "--validation", clicks, "--max-auc-loss", 1]
    monkeypatch.setattr(qin, "err", Console(file=(told := io.StringIO()), soft_wrap=True))
    done = CliRunner().invoke(qin.app, [str(argument) for argument in (*arguments, *options)])
    assert done.exit_code == 0, done.output
    assert re.match(r"AUC 0\.\d{6} on 300 validation rows, 0\.\d{6} in float32 \(a loss of \S+\)", told.getvalue())
    assert done.stdout.split() == list_versions(tmp_path / "store", "qin")
    assert read_bundle(tmp_path / "store" / "qin" / done.stdout.strip()).manifest.precision == "bfloat16"
