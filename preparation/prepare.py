"""`qin prepare`: logs and a catalogue in, a folder to train on out."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from preparation.assembly import Logs, Sources, read_logs
from preparation.catalogue import RawCatalogue, read_catalogue
from preparation.embedding import fit_embedder
from preparation.errors import SettingError, SourceError
from preparation.fitted import ITEM_IDS, USER_IDS, Fitted, load_fitted
from preparation.identity import IdMap, load_ids, make_ids
from preparation.levels import LevelRule, fit_edges
from preparation.output import RowWriter, write_items, write_last_histories, write_last_levels
from preparation.rows import Rows
from preparation.settings import Settings, check_alike
from preparation.split import Split, make_split
from preparation.tags import fit_tags, to_slots
from preparation.timeline import Popularity, Timeline

PREPARATION = "preparation"
TRAIN, VALID, TEST, ITEM_INFO = "train.parquet", "valid.parquet", "test.parquet", "item_info.parquet"
_COUNTED_ROWS = 1_000_000
"""The quantiles of so many rows' shares are no different from those of all."""
LAST_LEVELS, LAST_HISTORIES = "last_levels.parquet", "last_histories.parquet"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came out."""

    folder: Path
    num_rows: dict[str, int]  # by file
    num_clicks: dict[str, int]
    num_items: int
    num_events: int
    elapsed_s: float


def prepare(
    sources: Sources, out: Path, settings: Settings, before: Path | None = None, console: Console | None = None
) -> Prepared:
    """Write a new folder with everything that training and serving need.

    Parameters
    ----------
    before
        The folder of an earlier preparation to go on from: ids, tags and level edges stay and grow, the embeddings
        are made by the same encoders and projection, so that a model can be retrained with `qin train --from`.
    console
        For what is noticed on the way; none means silence.

    Raises
    ------
    PreparationError
        Something cannot be read or does not fit; the message names file and column, or the setting.
    """
    started = time.perf_counter()
    if out.exists():
        raise SettingError(f"{out} exists already: prepare into a new folder")
    say = (console or Console(quiet=True)).print
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / PREPARATION).mkdir(parents=True)
    try:
        work = _Work(sources, settings, before)
        for remark in work.logs.remarks:
            say(remark, highlight=False, soft_wrap=True)
        counts = work.write(part)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    num_rows, num_clicks = ({name: pair[which] for name, pair in counts.items()} for which in (0, 1))
    elapsed_s = time.perf_counter() - started
    return Prepared(out, num_rows, num_clicks, len(work.catalogue), work.logs.num_events, elapsed_s)


class _Work:
    """One preparation: what was read, and the rows that follow from it."""

    def __init__(self, sources: Sources, settings: Settings, before: Path | None) -> None:
        self.before = None if before is None else load_fitted(before)
        if self.before is not None:
            check_alike(self.before.settings, settings)
        self.settings = settings
        self.catalogue: RawCatalogue = read_catalogue(sources.items, settings)
        previous = None if before is None else load_ids(before / ITEM_IDS)
        # In a history 0 is padding, so no item may be 0.
        self.items: IdMap = make_ids("item", self.catalogue.item, settings.item_ids, 1, previous)
        self.item_ids: NDArray[np.int64] = self.items.ids[self.items.positions(self.catalogue.item)]
        users = None if before is None else load_ids(before / USER_IDS)
        self.logs: Logs = read_logs(sources, settings, self.catalogue.item, self.item_ids, users)
        self.split: Split = make_split(self.logs.clicks.time, settings)
        self.rows: Rows = self.logs.rows(settings, len(self.catalogue), self.split)

    def write(self, folder: Path) -> dict[str, tuple[int, int]]:
        """Write all files, and return number of rows and clicks of the three that are for training."""
        logs = self.logs
        timeline = Timeline(logs.clicks, self.item_ids, self.settings.history_length)
        likes = Popularity(logs.clicks, len(self.catalogue))
        views = likes if logs.shown is logs.clicks else Popularity(logs.shown, len(self.catalogue))
        parts = self.split.parts(self.rows)
        edges = self._edges(parts[TRAIN], likes, views)
        writer = RowWriter(self.item_ids, timeline, likes, views, edges, logs.served)
        for name, rows in parts.items():
            if name == TRAIN and not len(rows):
                raise SourceError("no row is left to train on: the split or rows_from leaves nothing before valid")
            writer.write(folder / name, rows)
        write_last_levels(folder / LAST_LEVELS, self.item_ids, (likes, views), edges)
        write_last_histories(folder / LAST_HISTORIES, np.unique(logs.clicks.user), timeline)
        totals = likes.total, views.total
        rules = [LevelRule(edge, total, len(self.catalogue)) for edge, total in zip(edges, totals, strict=True)]
        self._write_items(folder, rules[0], rules[1])
        return {name: (len(rows), int(rows.clicked.sum())) for name, rows in parts.items()}

    def _edges(self, train: Rows, likes: Popularity, views: Popularity) -> tuple[list[float], list[float]]:
        if self.before is not None:
            return self.before.likes.edges, self.before.views.edges
        sample = train.where(slice(None, None, max(len(train) // _COUNTED_ROWS, 1)))
        likes_edges = fit_edges(likes.shares(sample.item, sample.time), self.settings)
        if views is likes:
            return likes_edges, likes_edges
        return likes_edges, fit_edges(views.shares(sample.item, sample.time), self.settings)

    def _write_items(self, folder: Path, likes: LevelRule, views: LevelRule) -> None:
        """Write item_info, and what was fitted."""
        catalogue, settings = self.catalogue, self.settings
        if self.before is None:
            embedder, embedding = fit_embedder(catalogue.text, catalogue.image, settings)
            tags = fit_tags(catalogue.tags, settings.num_tags)
        else:
            embedder = self.before.embedder
            embedding = embedder.embed(catalogue.text, catalogue.image)
            tags = fit_tags(catalogue.tags, settings.num_tags, self.before.tags)
        write_items(folder / ITEM_INFO, self.item_ids, to_slots(catalogue.tags, tags, settings.max_tags), embedding)
        next_id = int(self.items.ids.max()) + 1
        fitted = Fitted(settings, tags, likes, views, embedder, self.items.kept, next_id)
        fitted.save(folder / PREPARATION)
        self.items.save(folder / PREPARATION / ITEM_IDS)
        self.logs.users.save(folder / PREPARATION / USER_IDS)


def describe(prepared: Prepared) -> str:
    """Return a few lines about what was written."""
    lines = [
        f"{prepared.num_rows[name]:>12,} rows, {prepared.num_clicks[name]:,} of them clicks, in {name}"
        for name in prepared.num_rows
    ]
    speed = prepared.num_events / prepared.elapsed_s
    lines.append(f"{prepared.num_items:>12,} items in {ITEM_INFO}")
    lines.append(
        f"{prepared.num_events:,} events in {prepared.elapsed_s:.1f} s ({speed:,.0f}/s); "
        f"what was fitted is in {prepared.folder / PREPARATION}"
    )
    return "\n".join(lines)
