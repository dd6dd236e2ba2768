"""Train a recipe with several seeds; say how good it is, and how far one seed is from another.

    python -m tests.bench.quality --data DIR --out DIR [--recipe NAME] [--seeds 3] [--set KEY=VALUE] [--hold-out 0.05]

Prints AUC and log loss of the validation rows as mean and standard deviation over seeds: all of them, each half of
the users (so that what was chosen on one half can be confirmed on the other), and by length of history. With
`--hold-out` that share of items and of users is taken out of the training rows first, and the validation rows that
have them are shown apart. A run that is there already is not trained again.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from contract.mmctr import Clicks, read_clicks, read_items
from training.checkpoint import WEIGHTS
from training.dataset import ITEM_INFO, TRAIN, VALID
from training.evaluate import score_checkpoint
from training.metrics import auc, log_loss
from training.recipes import get_recipe, with_settings
from training.trainer import train

_HISTORY = 64
_LENGTHS = ((1, 4), (5, 8), (9, 16), (17, 64))

Parts = dict[str, NDArray[np.bool_]]


def main() -> None:
    """Parse the command line, train what is missing, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go, one folder a seed")
    parser.add_argument("--recipe", default="microlens_50k")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument(
        "--hold-out", type=float, default=0.0, help="share of items and of users without training rows"
    )
    arguments = parser.parse_args()
    valid = read_clicks(arguments.data / VALID, _HISTORY)
    data, parts = arguments.data, whole_parts(valid)
    if arguments.hold_out:
        data = arguments.out / "data"
        items, users = held_out(arguments.data, valid, arguments.hold_out)
        parts = held_out_parts(valid, items, users)
        write_without(arguments.data, data, items, users)
    parts = {name: rows for name, rows in parts.items() if rows.any()}
    console, runs = Console(), []
    for seed in range(1, arguments.seeds + 1):
        out = arguments.out / f"seed-{seed}"
        if not (out / WEIGHTS).exists():
            recipe = with_settings(get_recipe(arguments.recipe), [*arguments.settings, f"seed={seed}"])
            train(data, out, recipe, console=console)
        scores, labels = score_checkpoint(out, arguments.data / VALID, arguments.data / ITEM_INFO)
        assert labels is not None
        runs.append([figures(labels[rows], scores[rows]) for rows in parts.values()])
    console.print(table(parts, np.array(runs)))


def whole_parts(valid: Clicks) -> Parts:
    """Return the validation rows of each part: all, both halves of the users, lengths of history."""
    half = np.random.default_rng(5).random(int(valid.user_id.max()) + 1) < 0.5
    length = (valid.history != 0).sum(1)
    lengths = {f"history of {low} to {high}": (length >= low) & (length <= high) for low, high in _LENGTHS}
    first = half[valid.user_id]
    return {"all": np.ones_like(first), "first half of users": first, "second half of users": ~first, **lengths}


def held_out(data: Path, valid: Clicks, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the items, of the catalogue, and the users, of the validation rows, that training will not see."""
    generator = np.random.default_rng(77)
    items, users = read_items(data / ITEM_INFO).item_id, np.unique(valid.user_id)
    items = items[items != 0]
    cold, new = (generator.choice(ids, int(share * len(ids)), replace=False) for ids in (items, users))
    return cold, new


def held_out_parts(valid: Clicks, items: NDArray[np.int64], users: NDArray[np.int64]) -> Parts:
    """Return the validation rows of unseen items, of unseen users, and of neither."""
    cold, new = np.isin(valid.item_id, items), np.isin(valid.user_id, users)
    return {"all": np.ones_like(cold), "known item and user": ~cold & ~new, "cold item": cold, "new user": new}


def write_without(data: Path, folder: Path, items: NDArray[np.int64], users: NDArray[np.int64]) -> None:
    """Write the data without the given items, in histories too, and without the training rows of the given users."""
    folder.mkdir(parents=True, exist_ok=True)
    info = pq.read_table(data / ITEM_INFO)
    pq.write_table(info.filter(~np.isin(np.asarray(info["item_id"]), items)), folder / ITEM_INFO)
    for name in (TRAIN, VALID):
        clicks = read_clicks(data / name, _HISTORY)
        kept = ~np.isin(clicks.item_id, items) & ~np.isin(clicks.user_id, users)
        histories = np.where(np.isin(clicks.history, items), 0, clicks.history)
        _write(folder / name, replace(clicks, history=histories), kept)


def _write(path: Path, clicks: Clicks, rows: NDArray[np.bool_]) -> None:
    assert clicks.label is not None
    columns = {
        "user_id": clicks.user_id[rows],
        "item_id": clicks.item_id[rows],
        "item_seq": pa.FixedSizeListArray.from_arrays(clicks.history[rows].ravel(), clicks.history.shape[1]),
        "likes_level": clicks.levels[rows, 0],
        "views_level": clicks.levels[rows, 1],
        "label": clicks.label[rows],
    }
    pq.write_table(pa.table(columns), path)


def figures(label: NDArray[np.float32], score: NDArray[np.float32]) -> tuple[float, float]:
    """Return AUC, NaN where there is none, and log loss."""
    area = auc(label, score)
    return (np.nan if area is None else area), log_loss(label, score)


def table(parts: Parts, runs: NDArray[np.float64]) -> Table:
    """Return the figures of (seeds, parts, 2) as a table; one seed has no deviation."""
    result = Table(
        "validation rows", "rows", "AUC", "log loss", title=f"{len(runs)} seeds: mean ± standard deviation"
    )
    spread = runs.std(0, ddof=1) if len(runs) > 1 else None
    for part, (name, rows) in enumerate(parts.items()):
        cells = [f"{value:.4f}" for value in runs[:, part].mean(0)]
        if spread is not None:
            cells = [f"{cell} ± {deviation:.4f}" for cell, deviation in zip(cells, spread[part], strict=True)]
        result.add_row(name, f"{int(rows.sum()):,}", *cells)
    return result


if __name__ == "__main__":
    main()
