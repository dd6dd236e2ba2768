"""Several users' candidates as one run's arrays.

Shapes: U users, N candidates of the one who has most, H history length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scoring.views import View
from service.query import Query

_MOST_PADDING = 2
_EMPTY = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one run; candidates past a user's own are row 0."""

    candidate_rows: NDArray[np.int64]  # (U, N)
    history_rows: NDArray[np.int64]  # (U, H)
    levels: NDArray[np.int64]  # (U, N, 2)
    missing: dict[int, NDArray[np.int64]]  # by position of the user, candidates and history items that have no row


def assemble(view: View, queries: Sequence[Query], histories: Sequence[NDArray[np.int64] | None]) -> Batch:
    """Look up every id; levels in a query stand before the stored ones."""
    shape = len(queries), max(query.num_candidates for query in queries)
    ids, known = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    for user, query in enumerate(queries):
        ids[user, : query.num_candidates] = query.candidates
        known[user, : query.num_candidates] = True
    candidate_rows = np.where(known, view.rows(ids), 0)
    levels = view.levels(candidate_rows)
    for user, query in enumerate(queries):
        for column, given in enumerate((query.likes_level, query.views_level)):
            if given is not None:
                levels[user, : len(given), column] = given
    known_histories = [history if history is not None else _EMPTY for history in histories]
    history_rows = view.history_rows(known_histories)
    lacking = known & (candidate_rows == 0)
    missing = {}
    for user, history in enumerate(known_histories):
        without = np.concatenate([ids[user, lacking[user]], _without_rows(history, history_rows[user])])
        if len(without):
            missing[user] = without
    return Batch(candidate_rows, history_rows, levels, missing)


def _without_rows(history: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the items of a history's last H that have no row; 0 is padding and no item."""
    last = history[-len(rows) :]
    without: NDArray[np.int64] = last[(rows[len(rows) - len(last) :] == 0) & (last != 0)]
    return without


def plan_runs(lengths: Sequence[int]) -> list[list[int]]:
    """Group requests, by their numbers of candidates, into runs: one, unless more than half of it were padding."""
    if len(lengths) * max(lengths) <= _MOST_PADDING * sum(lengths):
        return [list(range(len(lengths)))]
    brackets: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        brackets.setdefault(length.bit_length(), []).append(position)
    return list(brackets.values())
