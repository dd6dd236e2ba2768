"""Clicks scored by a bundle: the very graphs that are served, fed from parquet."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.bundle import read_bundle
from contract.codec import item_records
from contract.ids import IdIndex
from contract.mmctr import Clicks, ItemInfo, MmctrError, iter_clicks, read_items
from contract.schema import Schema
from scoring.device import Device
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from scoring.views import View

_ROWS_AT_ONCE = 512


def score_bundle(
    bundle: Path, data: Path, items: Path, device: Device = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the score of each click in row order, and the labels where the file has them.

    Raises
    ------
    BundleError
        The bundle cannot be read.
    MmctrError
        A file is not of the MM-CTR layout, or a click names an item that `items` does not hold or a level
        that the model does not have.
    """
    return score_clicks(Scorer(read_bundle(bundle), device), data, read_items(items))


def score_clicks(
    scorer: Scorer, data: Path, items: ItemInfo
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the score of each click in row order, and the labels where the file has them; see `score_bundle`."""
    catalogue = encode_catalogue(scorer, items)
    known = _known(catalogue)
    scores: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    first_row = 0
    with catalogue.view() as view:
        for clicks in iter_clicks(data, scorer.features.history_length):
            _check_ids(data, clicks, known, first_row)
            _check_levels(data, clicks, scorer.features, first_row)
            scores.append(_score(scorer, view, clicks))
            first_row += len(clicks)
            if clicks.label is not None:
                labels.append(clicks.label)
    empty = np.zeros(0, dtype=np.float32)
    return np.concatenate([empty, *scores]), np.concatenate(labels) if labels else None


def encode_catalogue(scorer: Scorer, items: ItemInfo) -> ItemRows:
    """Return a whole catalogue in a scorer's tables; stored levels are 0.

    Raises
    ------
    MmctrError
        The items' embedding or tag slots are not of the bundle's width.
    """
    found = items.embedding.shape[1], items.tags.shape[1]
    wanted = scorer.features.embedding_width, scorer.features.max_tags
    if found != wanted:
        raise MmctrError(
            f"the items have embeddings of width {found[0]} and {found[1]} tag slots; "
            f"the bundle takes {wanted[0]} and {wanted[1]}"
        )
    rows = ItemRows(scorer, capacity=len(items))
    rows.update(items.item_id, item_records(items.tags, np.zeros((len(items), 2)), items.embedding))
    return rows


def _score(scorer: Scorer, view: View, clicks: Clicks) -> NDArray[np.float32]:
    """Score each click as a user of its own with one candidate."""
    candidates = view.rows(clicks.item_id)[:, None]
    histories = np.where(clicks.history == 0, 0, view.rows(clicks.history))
    levels = clicks.levels[:, None, :]
    parts = [
        scorer.score(view.tables, candidates[batch], histories[batch], levels[batch])[:, 0]
        for batch in (slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(clicks), _ROWS_AT_ONCE))
    ]
    return np.concatenate(parts)


def _known(catalogue: ItemRows) -> IdIndex:
    with catalogue.view() as view:
        return view.index


def _check_ids(data: Path, clicks: Clicks, known: IdIndex, first_row: int) -> None:
    """Refuse clicks on items without features: a silent zero vector would pass for a score."""
    for name, ids in (("item_id", clicks.item_id[:, None]), ("item_seq", clicks.history)):
        unknown = known.rows(ids) == 0
        if name == "item_seq":
            unknown &= ids != 0
        if unknown.any():
            row, column = (int(axis) for axis in np.argwhere(unknown)[0])
            raise MmctrError(
                f"{data}: {name} of row {first_row + row} is {ids[row, column]}, which the item file does not hold"
            )


def _check_levels(data: Path, clicks: Clicks, features: Schema, first_row: int) -> None:
    wrong = (clicks.levels >= (features.num_likes_levels, features.num_views_levels)).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise MmctrError(
            f"{data}: row {first_row + row} has levels {clicks.levels[row].tolist()}; the model has "
            f"{features.num_likes_levels} likes and {features.num_views_levels} views levels, 0 included"
        )
