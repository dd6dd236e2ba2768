"""Sends requests at their moments, whatever becomes of those before: one process, one thread, one loop.

An event loop's timers count milliseconds, which is as long as a request may take; here the wait for the next moment
counts microseconds. Nothing is allocated per request but what is sent and what is noted.
"""

import gc
import select
import selectors
import time
from array import array
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.connection import Connection, LostError, MalformedError, State
from loadtest.messages import Messages
from loadtest.samples import LOST, MALFORMED, NO_CONNECTION, NUM_COLUMNS, TIMED_OUT
from loadtest.target import Target

_LONGEST_WAIT_S = 0.2
_FIRST_CONNECTIONS = 4
_OPENING_S = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """What one process sends.

    Attributes
    ----------
    index
        (n,) names of the requests in the samples.
    times
        (n,) moments in seconds since the start, ascending; None for a closed loop, which sends the next request
        when an answer has come, and goes through the requests again and again.
    users, lists
        (n,) user and candidate list of each request.
    num_connections
        At most so many; in a closed loop so many are always busy.
    timeout_s
        How long after its moment a request has failed.
    closed_s
        How long a closed loop goes on.
    """

    target: Target
    messages: Messages
    index: NDArray[np.int64]
    times: NDArray[np.float64] | None
    users: NDArray[np.int64]
    lists: NDArray[np.int64]
    num_connections: int
    timeout_s: float
    closed_s: float = 0


@dataclass(slots=True)
class _Request:
    number: int
    intended: float
    picked: float
    sent: float = 0
    over: bool = False
    resent: bool = False
    connection: Connection | None = None


class Sender:
    """One run of one job; `prepare`, then `run`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._times = None if job.times is None else job.times.tolist()
        self._users, self._lists, self._index = job.users.tolist(), job.lists.tolist(), job.index.tolist()
        self._selector = selectors.DefaultSelector()
        self._context = job.target.context()
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiting: deque[_Request] = deque()
        self._on_the_way: deque[_Request] = deque()  # by their moment, those that are over among them
        self._num_open_requests = 0
        self._num_opening = 0
        self._next = 0
        self._start = self._end = 0.0
        self._rows = array("d")

    def prepare(self) -> None:
        """Open the first connections, so that the first requests need not wait for them."""
        gc.collect()
        wanted = (
            self._job.num_connections if self._times is None else min(_FIRST_CONNECTIONS, self._job.num_connections)
        )
        for _ in range(wanted):
            self._open()
        deadline = time.monotonic() + _OPENING_S
        while self._num_opening and time.monotonic() < deadline:
            self._attend(0.05)

    def run(self, start: float) -> NDArray[np.float64]:
        """Send everything and wait for what comes back.

        Parameters
        ----------
        start
            The moment 0 of the job's times, by `time.monotonic`.

        Returns
        -------
        array of (n, NUM_COLUMNS)
            See `loadtest.samples`.
        """
        gc.disable()
        self._start, self._end = start, start + self._job.closed_s
        if self._times is None:
            self._attend(max(0.0, start - time.monotonic()))
            for _ in range(self._job.num_connections):
                self._launch(time.monotonic())
        while self._num_open_requests or self._more_to_come():
            now = time.monotonic()
            self._launch_due(now)
            self._expire(now)
            self._attend(self._rest_s(time.monotonic()))
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        gc.enable()
        return np.frombuffer(self._rows, dtype=np.float64).reshape(-1, NUM_COLUMNS)

    def _more_to_come(self) -> bool:
        return self._times is not None and self._next < len(self._times)

    def _launch_due(self, now: float) -> None:
        while self._times is not None and self._next < len(self._times):
            intended = self._start + self._times[self._next]
            if intended > now:
                return
            self._launch(intended)

    def _launch(self, intended: float) -> None:
        """Take the next request up: send it, or let it wait for a connection."""
        request = _Request(self._next, intended, time.monotonic())
        self._next += 1
        self._num_open_requests += 1
        self._on_the_way.append(request)
        self._send_or_wait(request)

    def _send_or_wait(self, request: _Request) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.state is State.IDLE:
                self._send(connection, request)
                return
        self._waiting.append(request)
        self._open_for_waiting()

    def _send(self, connection: Connection, request: _Request) -> None:
        number = request.number % len(self._users)
        message = self._job.messages.message(self._lists[number], self._users[number])
        request.connection, request.sent = connection, time.monotonic()
        try:
            connection.send(message, request)
        except LostError:
            self._lost(connection, LOST)

    def _open_for_waiting(self) -> None:
        while self._num_opening < len(self._waiting) and len(self._connections) < self._job.num_connections:
            self._open()

    def _open(self) -> None:
        self._num_opening += 1
        self._connections.add(Connection(self._job.target, self._selector, self._context))

    def _attend(self, timeout_s: float) -> None:
        """Wait for answers, at most so long."""
        if timeout_s > 0:
            # The selector's own time-out is rounded up to a millisecond; this one is not.
            select.select([self._selector.fileno()], [], [], timeout_s)
        for key, _ in self._selector.select(0):
            if key.data.state is not State.CLOSED:
                self._go_on(key.data)

    def _go_on(self, connection: Connection) -> None:
        opening = connection.state in (State.CONNECTING, State.SHAKING_HANDS)
        try:
            answer = connection.ready()
        except LostError as error:
            self._num_opening -= opening
            kind = NO_CONNECTION if opening else MALFORMED if isinstance(error, MalformedError) else LOST
            self._lost(connection, kind)
            return
        if opening and connection.state is State.IDLE:
            self._num_opening -= 1
            self._free(connection)
        elif answer is not None:
            self._answered(connection, *answer)

    def _answered(self, connection: Connection, status: int, degraded: bool) -> None:
        now = time.monotonic()
        request, connection.request = connection.request, None
        if connection.state is State.CLOSED or request is None:
            self._drop(connection)
        else:
            self._free(connection)
        if request is not None:
            self._over(request, now, status, degraded)

    def _free(self, connection: Connection) -> None:
        """Give a connection to whoever waits for one longest, else keep it; the last used is used next."""
        while self._waiting:
            request = self._waiting.popleft()
            if not request.over:
                self._send(connection, request)
                return
        self._idle.append(connection)

    def _lost(self, connection: Connection, kind: int) -> None:
        """Let the request of a connection that ended fail, or go by another one.

        A connection may be closed just when a request is sent on it; as any client would, such a request, of which
        not a byte was answered, is sent again, once.
        """
        request, answered = connection.request, connection.answered
        self._drop(connection)
        if request is None and kind == NO_CONNECTION:
            request = next((waiting for waiting in self._waiting if not waiting.over), None)
            if request is not None:
                self._waiting.remove(request)
        if request is None or request.over:
            return
        if kind == LOST and not answered and not request.resent:
            request.resent = True
            self._send_or_wait(request)
        else:
            self._over(request, time.monotonic(), kind)

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._connections.discard(connection)
        self._open_for_waiting()

    def _expire(self, now: float) -> None:
        """Let requests fail whose time is up, sent or not."""
        latest = now - self._job.timeout_s
        while self._on_the_way and (self._on_the_way[0].over or self._on_the_way[0].intended <= latest):
            request = self._on_the_way.popleft()
            if not request.over:
                if request.connection is not None and request.connection.request is request:
                    request.connection.request = None
                    self._drop(request.connection)
                self._over(request, now, TIMED_OUT)

    def _over(self, request: _Request, now: float, status: int, degraded: bool = False) -> None:
        request.over = True
        self._num_open_requests -= 1
        start = self._start
        self._rows.extend(
            (
                self._index[request.number % len(self._index)],
                request.intended - start,
                request.picked - start,
                (request.sent or now) - start,
                now - start,
                status,
                degraded,
                request.resent,
            )
        )
        if self._times is None and now < self._end:
            self._launch(time.monotonic())

    def _rest_s(self, now: float) -> float:
        """Return how long there is nothing to do but to listen."""
        rest_s = _LONGEST_WAIT_S
        if self._more_to_come():
            assert self._times is not None
            rest_s = min(rest_s, self._start + self._times[self._next] - now)
        if self._on_the_way:
            rest_s = min(rest_s, self._on_the_way[0].intended + self._job.timeout_s - now)
        return rest_s
