"""A trained model to a published bundle: fold, build, check against torch, measure, publish; or publish nothing."""

import io
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contract.bundle import (
    GOLDEN,
    VOCABULARY,
    check_name,
    hash_files,
    new_version,
    read_bundle,
    stage,
)
from contract.ids import IdIndex
from contract.manifest import Manifest, Measured, Precision, Provenance, TableSpec, Tolerance
from contract.mmctr import ItemInfo
from contract.schema import Schema
from contract.store import Store, open_store
from export.draft import Draft
from export.errors import ExportError
from export.fold import fold
from export.functions import OPS, OPSET
from export.golden import golden_inputs, golden_outputs, golden_rows
from export.graph import folded_graphs, folded_tables
from export.measure import auc_loss, measure, read_validation
from export.published import published_graphs, published_tables
from scoring.scorer import Scorer
from training.model import QIN

_LEAST_TOLERANCE, _MOST_TOLERANCE = 2e-6, 1e-4
_WEIGHTS_TOLERANCE = 2e-5
_MARGIN = 10
"""A bundle may err as much as this times what the network's own float32 errs, up to a limit."""
_PRECISION_MARGIN = 3
"""A bundle of less than float32 may err as much as this times what it was measured to err."""
MAX_AUC_LOSS = 1e-4


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What export needs of a checkpoint."""

    network: QIN
    vocabulary: NDArray[np.int64]  # (num_items,) item id of each vocabulary row
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class GoldenFile:
    """Golden rows as a file, and how far float32 may be from them."""

    content: bytes
    tolerance: Tolerance


@dataclass(frozen=True, slots=True)
class Form:
    """How a network is written down."""

    folded: bool = True
    split: bool = True
    precision: Precision = "float32"


def export_model(
    trained: TrainedModel,
    items: ItemInfo,
    store: Store | Path,
    model: str = "qin",
    *,
    fold_weights: bool = True,
    split_first_layer: bool = True,
    precision: Precision = "float32",
    validation: Path | None = None,
    max_auc_loss: float = MAX_AUC_LOSS,
) -> Path:
    """Publish a network as a new version of `model` and return the bundle's folder, in the store or on this machine.

    Parameters
    ----------
    trained
        The network with its vocabulary and where they come from.
    items
        The catalogue that golden rows are taken from; with `validation` it holds all items of its clicks.
    store
        Where models lie; a folder is made where it is not there.
    model
        Name of the model in the store.
    fold_weights
        Serve the folded form; else the model in the published order of computation, for comparison.
    split_first_layer
        Look layer 1's linear map up in tables instead of computing it, for 2.8 times the table memory at the
        paper's size; without `fold_weights` it has no effect.
    precision
        Of the matrices of the quadratic layers.
    validation
        A clicks file with labels. The manifest tells the bundle's AUC on it.
    max_auc_loss
        How much less AUC than in float32 is still published.

    Raises
    ------
    ExportError
        The items do not fit the model, the model has diverged, a precision below float32 is asked for the published
        form or without validation rows, or it costs too much.
    MmctrError, DataError
        The validation rows cannot be read, do not fit the items or the model, or have scores that are not finite.
    ParityError
        The bundle does not score as the model does: nothing is published.
    BundleError
        The store does not take it.
    """
    check_name(model, "model")
    form = Form(fold_weights, split_first_layer, precision)
    _check_form(form, validation)
    _check_items(items, trained.network.schema)
    rows = None if validation is None else read_validation(validation)
    trained.network.eval()
    golden = _golden(trained, items)
    draft = _draft(trained, model, golden, form)
    if rows is not None:
        in_float32 = replace(form, precision="float32")
        float32 = None if form == in_float32 else _draft(trained, model, golden, in_float32)
        measured = measure(draft, float32, rows, items)
        _check_loss(measured, precision, max_auc_loss)
        draft = _with_measured(draft, measured)
    return _publish(draft, open_store(store) if isinstance(store, Path) else store)


def _publish(draft: Draft, store: Store) -> Path:
    """Make a draft a version if it scores as its golden rows say."""
    staged = store.staging_folder(draft.manifest.model)
    try:
        stage(staged, draft.manifest, draft.contents)
        Scorer(read_bundle(staged)).verify()
        return store.publish(staged, draft.manifest.version)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _draft(trained: TrainedModel, model: str, golden: GoldenFile, form: Form) -> Draft:
    contents, tables = _graphs(trained.network, form)
    contents |= {VOCABULARY: _npy(trained.vocabulary), GOLDEN: golden.content}
    schema, files, created = trained.network.schema, hash_files(contents), datetime.now(UTC)
    manifest = Manifest(
        model=model,
        version=new_version(created, sha256(repr(files).encode()).hexdigest()),
        created=created,
        features=schema,
        features_sha256=schema.digest(),
        files=files,
        tables=tables,
        folded=form.folded,
        opset=OPSET,
        qin_ops=OPS if form.folded else {},
        precision=form.precision,
        provenance=trained.provenance,
        tolerance=golden.tolerance,
    )
    return Draft(manifest, contents)


def _with_measured(draft: Draft, measured: Measured) -> Draft:
    """Return a draft whose manifest tells what it was measured to do, with a tolerance that allows for it.

    A precision below float32 is off by what its rounding costs this network, of which float32's tolerance knows
    nothing. So the tolerance is a multiple of the error that was measured: another machine may sum in another order,
    which tips a few roundings, but only a fault errs several times as much. That the fold itself is right was seen on
    the float32 form, by float32's tolerance.
    """
    tolerance = draft.manifest.tolerance
    if draft.manifest.precision != "float32":
        scores = max(tolerance.scores, _PRECISION_MARGIN * measured.max_score_error)
        tolerance = Tolerance(scores=scores, weights=tolerance.weights)
    return replace(draft, manifest=draft.manifest.model_copy(update={"measured": measured, "tolerance": tolerance}))


def _graphs(network: QIN, form: Form) -> tuple[dict[str, bytes], tuple[TableSpec, ...]]:
    if not form.folded:
        return published_graphs(network), published_tables(network.schema)
    folded = fold(network)
    return folded_graphs(folded, form.split, form.precision), folded_tables(folded, form.split)


def _golden(trained: TrainedModel, items: ItemInfo) -> GoldenFile:
    """Return the golden file, and a tolerance that float32 can keep with these weights."""
    inputs = golden_inputs(items, trained.network.schema)
    vocabulary = IdIndex(trained.vocabulary[1:], np.arange(1, len(trained.vocabulary)))
    rows = vocabulary.rows(inputs.item_id)
    scores, weights = golden_outputs(trained.network, rows, inputs)
    if not (np.isfinite(scores).all() and np.isfinite(weights).all()):
        raise ExportError("the model gives scores that are not finite: it has diverged")
    own, _ = golden_outputs(trained.network, rows, inputs, torch.float32)
    error = _MARGIN * float(np.abs(own - scores).max())
    tolerance = Tolerance(scores=float(np.clip(error, _LEAST_TOLERANCE, _MOST_TOLERANCE)), weights=_WEIGHTS_TOLERANCE)
    return GoldenFile(golden_rows(inputs, scores, weights).to_bytes(), tolerance)


def _check_form(form: Form, validation: Path | None) -> None:
    if form.precision == "float32":
        return
    if not form.folded:
        raise ExportError(f"precision {form.precision} is for the folded form alone: leave out --no-fold")
    if validation is None:
        raise ExportError(
            f"what precision {form.precision} costs is measured on labelled clicks: name a file with --validation"
        )


def _check_items(items: ItemInfo, schema: Schema) -> None:
    if not len(items):
        raise ExportError("the item file holds no items")
    found = items.embedding.shape[1], items.tags.shape[1]
    if found != (schema.embedding_width, schema.max_tags):
        raise ExportError(
            f"the items have embeddings of width {found[0]} and {found[1]} tag slots; "
            f"the model was trained with {schema.embedding_width} and {schema.max_tags}"
        )


def _check_loss(measured: Measured, precision: Precision, max_auc_loss: float) -> None:
    loss = auc_loss(measured)
    if not loss <= max_auc_loss:
        raise ExportError(
            f"{precision} loses {loss:.2g} of AUC on {measured.num_rows} validation rows ({measured.auc:.6f}, "
            f"{measured.auc_float32:.6f} in float32); --max-auc-loss allows {max_auc_loss:.2g}"
        )


def _npy(values: NDArray[np.int64]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
