"""A trained model to a published bundle: fold, build, check against torch, publish; or publish nothing."""

import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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
    publish,
    read_bundle,
    stage,
    staging_folder,
)
from contract.ids import IdIndex
from contract.manifest import Manifest, Provenance, TableSpec, Tolerance
from contract.mmctr import ItemInfo
from contract.schema import Schema
from export.fold import fold
from export.functions import OPS, OPSET
from export.golden import golden_inputs, golden_outputs, golden_rows
from export.graph import folded_graphs, folded_tables
from export.published import published_graphs, published_tables
from scoring.scorer import Scorer
from training.model import QIN

_LEAST_TOLERANCE, _MOST_TOLERANCE = 2e-6, 1e-4
_WEIGHTS_TOLERANCE = 2e-5
_MARGIN = 10
"""A bundle may err as much as this times what the network's own float32 errs, up to a limit."""


class ExportError(Exception):
    """A model cannot be exported with the items that were given."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What export needs of a checkpoint."""

    network: QIN
    vocabulary: NDArray[np.int64]  # (num_items,) item id of each vocabulary row
    provenance: Provenance


def export_model(
    trained: TrainedModel,
    items: ItemInfo,
    store: Path,
    model: str = "qin",
    *,
    fold_weights: bool = True,
    split_first_layer: bool = True,
) -> Path:
    """Publish a network as a new version of `model` and return the bundle's folder.

    Parameters
    ----------
    trained
        The network with its vocabulary and where they come from.
    items
        The catalogue that golden rows are taken from.
    store
        The folder of models; made where it is not there.
    model
        Name of the model in the store.
    fold_weights
        Serve the folded form; else the model in the published order of computation, for comparison.
    split_first_layer
        Look layer 1's linear map up in tables instead of computing it, for 2.8 times the table memory at the
        paper's size; without `fold_weights` it has no effect.

    Raises
    ------
    ExportError
        The items do not fit the model, or the model has diverged.
    ParityError
        The bundle does not score as the model does: nothing is published.
    """
    check_name(model, "model")
    _check_items(items, trained.network.schema)
    contents, tables = _graphs(trained.network.eval(), fold_weights, split_first_layer)
    contents[VOCABULARY] = _npy(trained.vocabulary)
    contents[GOLDEN], tolerance = _golden(trained, items)
    manifest = _manifest(trained, model, contents, tables, tolerance, folded=fold_weights)
    staged = staging_folder(store, model)
    try:
        stage(staged, manifest, contents)
        Scorer(read_bundle(staged)).verify()
        return publish(staged, manifest.version)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _manifest(
    trained: TrainedModel,
    model: str,
    contents: Mapping[str, bytes],
    tables: tuple[TableSpec, ...],
    tolerance: Tolerance,
    *,
    folded: bool,
) -> Manifest:
    schema, files, created = trained.network.schema, hash_files(contents), datetime.now(UTC)
    return Manifest(
        model=model,
        version=new_version(created, sha256(repr(files).encode()).hexdigest()),
        created=created,
        features=schema,
        features_sha256=schema.digest(),
        files=files,
        tables=tables,
        folded=folded,
        opset=OPSET,
        qin_ops=OPS if folded else {},
        provenance=trained.provenance,
        tolerance=tolerance,
    )


def _graphs(network: QIN, fold_weights: bool, split: bool) -> tuple[dict[str, bytes], tuple[TableSpec, ...]]:
    if not fold_weights:
        return published_graphs(network), published_tables(network.schema)
    folded = fold(network)
    return folded_graphs(folded, split), folded_tables(folded, split)


def _golden(trained: TrainedModel, items: ItemInfo) -> tuple[bytes, Tolerance]:
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
    return golden_rows(inputs, scores, weights).to_bytes(), tolerance


def _check_items(items: ItemInfo, schema: Schema) -> None:
    if not len(items):
        raise ExportError("the item file holds no items")
    found = items.embedding.shape[1], items.tags.shape[1]
    if found != (schema.embedding_width, schema.max_tags):
        raise ExportError(
            f"the items have embeddings of width {found[0]} and {found[1]} tag slots; "
            f"the model was trained with {schema.embedding_width} and {schema.max_tags}"
        )


def _npy(values: NDArray[np.int64]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
