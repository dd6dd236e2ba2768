"""Every request of a run, none left out: when it was due, when it was sent, when it was over, and how."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_COLUMNS = 8

OK = 200
SHED = (429, 503, 504)
"""Refusals of a service that has too much to do."""
NO_CONNECTION, LOST, MALFORMED, TIMED_OUT = -1, -2, -3, -4
NAMES = {
    NO_CONNECTION: "no connection",
    LOST: "connection lost",
    MALFORMED: "not HTTP",
    TIMED_OUT: "timed out",
}


@dataclass(frozen=True, slots=True)
class Samples:
    """Requests in the order of their moments.

    Attributes
    ----------
    intended_s
        When it was due, since the start of what is measured; before 0 is warming up.
    picked_s
        When the generator took it up: the rest is its own lateness.
    sent_s
        When it went out, having waited for a connection if none was free.
    done_s
        When the answer was whole, or the request had failed.
    status
        Of HTTP, or one of `NAMES`.
    degraded
        Answered with 200, but without a history or the newest items.
    resent
        Sent twice, for the service closed the connection as it was sent.
    user_id, num_candidates
        What was asked.
    cpu_s
        Processor seconds that the generators used.
    """

    intended_s: NDArray[np.float64]
    picked_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    status: NDArray[np.int64]
    degraded: NDArray[np.bool_]
    resent: NDArray[np.bool_]
    user_id: NDArray[np.int64]
    num_candidates: NDArray[np.int64]
    cpu_s: float

    def __len__(self) -> int:
        return len(self.status)

    def where(self, chosen: NDArray[np.bool_]) -> "Samples":
        """Return some of them; the processor time remains that of all."""
        columns: dict[str, Any] = {name: column[chosen] for name, column in self.columns().items()}
        return replace(self, **columns)

    def measured(self) -> "Samples":
        """Return those after the warm-up."""
        return self.where(self.intended_s >= 0)

    def between(self, start_s: float, end_s: float) -> "Samples":
        """Return those due in a stretch of time."""
        return self.where((self.intended_s >= start_s) & (self.intended_s < end_s))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name, in the order of the fields."""
        return {
            "intended_s": self.intended_s,
            "picked_s": self.picked_s,
            "sent_s": self.sent_s,
            "done_s": self.done_s,
            "status": self.status,
            "degraded": self.degraded,
            "resent": self.resent,
            "user_id": self.user_id,
            "num_candidates": self.num_candidates,
        }

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which were answered with scores."""
        return np.equal(self.status, OK)

    @property
    def shed(self) -> NDArray[np.bool_]:
        """Which the service refused to do for want of time."""
        return np.isin(self.status, SHED)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which were neither answered nor shed."""
        return ~self.ok & ~self.shed

    @property
    def timed(self) -> NDArray[np.bool_]:
        """Whose duration counts: those answered, and those that waited in vain, for as long as they did.

        What was refused, or failed at once, would make a service that refuses look quick.
        """
        return self.ok | np.equal(self.status, TIMED_OUT)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """How long each took, from the moment it was due."""
        return (self.done_s - self.intended_s) * 1e3


def gathered(
    rows: NDArray[np.float64], users: NDArray[np.int64], num_candidates: NDArray[np.int64], cpu_s: float
) -> Samples:
    """Return the samples of what senders noted.

    Parameters
    ----------
    rows
        (n, NUM_COLUMNS) index of the request, intended, picked, sent and done in seconds, status, degraded, resent.
    users, num_candidates
        Of all requests, by index; repeated where a closed loop went through them more than once.
    """
    assert rows.shape[1:] == (NUM_COLUMNS,)
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    index, intended_s, picked_s, sent_s, done_s, status, degraded, resent = rows.T
    which = index.astype(np.int64)
    return Samples(
        intended_s,
        picked_s,
        sent_s,
        done_s,
        status=status.astype(np.int64),
        degraded=degraded.astype(bool),
        resent=resent.astype(bool),
        user_id=users[which],
        num_candidates=num_candidates[which],
        cpu_s=cpu_s,
    )
