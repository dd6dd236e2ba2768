"""Loads that are small enough to think about."""

import time
from collections.abc import Sequence

import numpy as np

from loadtest.driver import Schedule
from loadtest.messages import Messages, make_messages
from loadtest.samples import Samples, gathered
from loadtest.sender import Job, Sender
from loadtest.target import Target, resolve

USERS = np.arange(100, 110)


def messages(target: Target) -> Messages:
    """Return the requests of two candidate lists."""
    return make_messages(target.host, {}, [np.array([1, 2, 3]), np.array([4, 5])])


def schedule(times: Sequence[float] | None, count: int | None = None) -> Schedule:
    """Return a schedule of users and lists in turn."""
    number = np.arange(len(times) if times is not None else count or 1)
    moments = None if times is None else np.array(times, dtype=np.float64)
    return Schedule(moments, USERS[number % len(USERS)], number % 2)


def sent(
    url: str,
    times: Sequence[float] | None,
    *,
    num_connections: int = 8,
    timeout_s: float = 30,
    late_s: float = 0,
    closed_s: float = 0,
) -> Samples:
    """Send requests from this process and return what became of them.

    Parameters
    ----------
    late_s
        How long ago the run should have begun.
    """
    target = resolve(url)
    wanted = schedule(times, 10)
    job = Job(
        target,
        messages(target),
        np.arange(len(wanted.users)),
        wanted.times,
        wanted.users,
        wanted.lists,
        num_connections,
        timeout_s,
        closed_s,
    )
    sender = Sender(job)
    sender.prepare()
    rows = sender.run(time.monotonic() - late_s)
    return gathered(rows, wanted.users, job.messages.num_candidates[wanted.lists], 0.0)
