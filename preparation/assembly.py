"""Logs of all kinds brought together: clicks for histories and counts, and the rows to learn from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from preparation.errors import SourceError
from preparation.events import Events, RawLog, known_events, read_log
from preparation.identity import IdMap, make_ids
from preparation.negatives import Met, sampled_negatives, shown_negatives
from preparation.rows import Rows
from preparation.served import Served, positions_of, read_served
from preparation.settings import Settings
from preparation.shown import clicked_within, is_ripe
from preparation.split import Split


@dataclass(frozen=True, slots=True)
class Sources:
    """The files to prepare; see docs/preparation.md for what each holds."""

    events: list[Path]
    items: Path
    impressions: list[Path]
    served: list[Path]


@dataclass(frozen=True, slots=True)
class Logs:
    """Everything that happened to items of the catalogue, in its own order."""

    users: IdMap
    clicks: Events
    shown: Events  # what counts as views: impressions, or else every event
    labelled: Rows | None  # what labels or impressions say was shown
    served: Served | None
    served_items: NDArray[np.int64]  # (c,) positions of the served candidates, -1 where the catalogue lacks one
    num_events: int
    remarks: list[str]

    def rows(self, settings: Settings, num_items: int, split: Split) -> Rows:
        """Return the rows to learn from, by time.

        Where anything says what was shown, a row is what was shown; otherwise a row is a click or a negative sampled
        for it (`preparation.negatives`).
        """
        met = Met(self.clicks, num_items)
        if self.labelled is not None or self.served is not None:
            shown = [rows for rows in (self.labelled, self._served_rows(settings)) if rows is not None]
            return shown_negatives(Rows.joined(shown), met, settings)
        counted = self.clicks.where(self.clicks.time >= split.rows_from)
        train = self.clicks.where(self.clicks.time < split.valid_from)
        popular = np.bincount(train.item, minlength=num_items)
        positives = Rows.logged(counted.user, counted.item, counted.time, np.ones(len(counted), dtype=bool))
        return Rows.joined([positives, sampled_negatives(counted, popular, met, settings)])

    def _served_rows(self, settings: Settings) -> Rows | None:
        """Return a row for each served candidate whose clicks are all known by now."""
        if self.served is None:
            return None
        request = self.served.request
        slot = np.flatnonzero(
            (self.served_items >= 0) & is_ripe(self.served.time, self.clicks, settings.click_window_s)[request]
        )
        request = request[slot]
        shown = Events(self.served.user[request], self.served_items[slot], self.served.time[request])
        clicked = clicked_within(shown, self.clicks, settings.click_window_s)
        return Rows(shown.user, shown.item, shown.time, clicked, request, slot)


def read_logs(
    sources: Sources,
    settings: Settings,
    items: pa.ChunkedArray,
    item_ids: NDArray[np.int64],
    users: IdMap | None,
) -> Logs:
    """Read all logs.

    Parameters
    ----------
    items, item_ids
        Raw id and id of each item of the catalogue.
    users
        Of an earlier preparation.

    Raises
    ------
    SourceError
        A file cannot be used, there is no click, or too many events are on items that the catalogue lacks.
    """
    raw = read_log(sources.events, settings)
    shown = read_log(sources.impressions, settings) if sources.impressions else None
    everyone = raw.user if shown is None else _both(raw.user, shown.user)
    ids = make_ids("user", everyone, settings.user_ids, 0, users)
    index = IdMap(_whole(items), np.arange(len(items)), kept=False)
    events, clicked, remarks = _events("events", raw, ids, index, settings)
    clicks = events if clicked.all() else events.where(clicked)
    if not len(clicks):
        raise SourceError("the events hold no click")
    views, labelled = events, None
    if shown is not None:
        views, _, more = _events("impressions", shown, ids, index, settings)
        remarks += more
        ripe = views.where(is_ripe(views.time, clicks, settings.click_window_s))
        within = clicked_within(ripe, clicks, settings.click_window_s)
        labelled = Rows.logged(ripe.user, ripe.item, ripe.time, within)
    elif not clicked.all():
        labelled = Rows.logged(events.user, events.item, events.time, clicked)
    served, served_items = None, np.zeros(0, dtype=np.int64)
    if sources.served:
        served, num_degraded = read_served(sources.served, item_ids, settings)
        served_items = positions_of(served, item_ids)
        remarks.append(f"{len(served.user):,} served requests, {num_degraded:,} degraded ones left out")
    num_events = len(raw) + (0 if shown is None else len(shown))
    return Logs(ids, clicks, views, labelled, served, served_items, num_events, remarks)


def _events(
    what: str, raw: RawLog, users: IdMap, items: IdMap, settings: Settings
) -> tuple[Events, NDArray[np.bool_], list[str]]:
    """Return the events on known items, which of them are clicks, and what to say of the others."""
    user = users.ids[users.positions(raw.user)]
    events, known = known_events(what, user, items.positions(raw.item), raw.time, settings.max_unknown_share)
    clicked = np.ones(len(events), dtype=bool) if raw.clicked is None else raw.clicked[known]
    lost = len(raw) - len(events)
    remarks = [f"{what}: {lost:,} of {len(raw):,} are on items that the catalogue lacks: left out"] if lost else []
    return events, clicked, remarks


def _both(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = first.type if first.type == second.type else pa.string()
    return pa.chunked_array([*first.cast(kind).chunks, *second.cast(kind).chunks], type=kind)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
