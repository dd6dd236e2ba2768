"""One call on its way: what to send, and what to do with what came of it. Nothing here sends anything or waits."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

import httpx
import msgspec

from contract.client_errors import ClientError, NoAnswerError, refusal
from contract.exchange import UNREADABLE, Exchange, new_idempotency_key
from contract.retry import PATIENT, STATUSES, Retry, read_retry_after
from contract.wire import Problem

T = TypeVar("T")

FAILURES = (httpx.HTTPError, httpx.InvalidURL)
"""What httpx raises where no answer comes."""

_GRACE_S = 0.5
"""How long after a deadline the answer that says so may arrive."""
_BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)
_PASSING = (*_BROKEN, httpx.ConnectTimeout, httpx.ReadTimeout, httpx.WriteTimeout, httpx.ProxyError)


@dataclass(frozen=True, slots=True)
class Pool:
    """How many connections a client keeps.

    Parameters
    ----------
    max_connections
        Open at once; a call that finds none free waits for one, for as long as its time-out.
    max_idle
        Kept open for later calls.
    idle_s
        How long one is kept. The service closes a connection after 5 s without a request: a smaller number here
        means that none is closed while a request is on its way to it.
    """

    max_connections: int = 100
    max_idle: int = 20
    idle_s: float = 4

    @property
    def limits(self) -> httpx.Limits:
        """The same in httpx's words."""
        return httpx.Limits(
            max_connections=self.max_connections,
            max_keepalive_connections=self.max_idle,
            keepalive_expiry=self.idle_s,
        )


POOL = Pool()
"""What clients keep unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls whom: what all calls of one client have in common. Keys and passwords are in no text that it gives.

    Parameters
    ----------
    url
        The service; as it is shown, without a password.
    admin_key, read_key
        What opens the routes that write, and the others. Either may be None; the admin key opens both.
    timeout_s
        How long connecting, sending and each wait for a part of the answer may take.
    retry
        When a call is tried again.
    """

    url: str
    admin_key: str | None = field(default=None, repr=False)
    read_key: str | None = field(default=None, repr=False)
    timeout_s: float = 10
    retry: Retry = PATIENT

    @classmethod
    def to(
        cls, url: str, admin_key: str | None, read_key: str | None, timeout_s: float, retry: Retry = PATIENT
    ) -> Self:
        """Return who calls a URL as it was given; raises ClientError where it or a key cannot be one."""
        shown = _without_password(url)
        return cls(shown, _key(admin_key, "admin key"), _key(read_key, "read key"), timeout_s, retry)

    def course(self, exchange: Exchange[T]) -> "Course[T]":
        """Begin a call."""
        return Course(self, exchange)

    def event_key(self, given: str | None) -> str | None:
        """Return the Idempotency-Key of events; one of our own where there is none and they may be sent again."""
        return new_idempotency_key() if given is None and self.retry.max_attempts > 1 else given

    def headers(self, exchange: Exchange[Any]) -> dict[bytes, bytes]:
        """Return the headers of a request; a key goes as UTF-8, as the service reads its own."""
        headers = {name.encode(): value.encode() for name, value in exchange.headers.items()}
        if exchange.body is not None:
            kind = b"application/x-ndjson" if isinstance(exchange.body, bytes) else b"application/json"
            headers[b"Content-Type"] = kind
        key = self.admin_key if exchange.writes else self.read_key or self.admin_key
        if key is not None:
            headers[b"Authorization"] = b"Bearer " + key.encode()
        return headers


class Course(Generic[T]):
    """One call, from its first attempt to its end.

    To be used so: `send` tells what to send; what came of it goes into `take`; if that returns None, `result` has
    what the call was for, else the next attempt is due after so many seconds.
    """

    result: T

    def __init__(self, caller: Caller, exchange: Exchange[T]) -> None:
        self._caller, self._exchange = caller, exchange
        self._started_s = time.monotonic()
        self._num_attempts = 0
        self._is_new_connection = False
        self._timeout_s = max(caller.timeout_s, exchange.least_timeout_s)
        budget_s, deadline_s = caller.retry.budget_s, exchange.deadline_s
        if deadline_s is not None:
            budget_s, self._timeout_s = min(budget_s, deadline_s), min(self._timeout_s, deadline_s + _GRACE_S)
        self._budget_s = budget_s

    def trace(self, event: str, _details: Mapping[str, Any]) -> None:
        """Take note of what the transport does; by this a connection that was kept is told from a new one."""
        if ".connect_" in event:
            self._is_new_connection = True

    def send(self) -> dict[str, Any]:
        """Return the arguments of httpx's `request`, for the next attempt."""
        passed_s = self._passed_s() if self._num_attempts else 0.0
        self._num_attempts += 1
        self._is_new_connection = False
        left_s = max(0.001, max(self._timeout_s, self._budget_s) - passed_s)
        timeout_s = min(self._timeout_s, left_s)
        return {
            "method": self._exchange.method,
            "url": self._exchange.path,
            "content": self._exchange.content(passed_s),
            "headers": self._caller.headers(self._exchange),
            # What takes long to answer takes no longer to connect to.
            "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, self._caller.timeout_s)),
        }

    def take(self, outcome: httpx.Response | Exception) -> float | None:
        """Say how many seconds after an attempt the next one is due; None where there is a result.

        Raises
        ------
        ClientError
            The call has failed.
        """
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            self.result = self._exchange.decode(outcome.content)
            return None
        if isinstance(outcome, httpx.Response):
            refused = self._refusal(outcome)
            return self._pause_or_raise(refused, outcome.status_code in STATUSES)
        silent = NoAnswerError(f"{self._caller.url} does not answer: {outcome or type(outcome).__name__}")
        silent.__cause__ = outcome
        # The service closed a connection that it had kept open, as it may at any moment: nothing to wait for.
        at_once = isinstance(outcome, _BROKEN) and not self._is_new_connection
        return self._pause_or_raise(silent, isinstance(outcome, _PASSING), at_once)

    def _pause_or_raise(self, error: ClientError, is_passing: bool, at_once: bool = False) -> float:
        retry = self._caller.retry
        if not (is_passing and self._exchange.repeatable and self._num_attempts < retry.max_attempts):
            raise error
        pause_s = 0.0 if at_once else retry.pause_s(self._num_attempts, error.retry_after_s)
        if self._passed_s() + pause_s >= self._budget_s:
            raise error
        return pause_s

    def _refusal(self, response: httpx.Response) -> ClientError:
        status, headers = response.status_code, response.headers
        more = {
            "retry_after_s": read_retry_after(headers.get("Retry-After")),
            "request_id": headers.get("X-Request-Id"),
        }
        try:
            problem = msgspec.json.decode(response.content, type=Problem)
        except UNREADABLE:
            return refusal(status)(f"{self._exchange.method} {self._exchange.path}: {status}", status, **more)
        where = f"{problem.field}: " if problem.field else ""
        return refusal(status)(where + problem.detail, status, problem.field, **more)

    def _passed_s(self) -> float:
        return time.monotonic() - self._started_s


def _without_password(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        # A wrong one may hold a password wherever it likes.
        shown = "what was given" if "@" in url else repr(url)
        raise ClientError(f"{shown} is not a service's URL, such as http://127.0.0.1:8000")
    return str(parsed.copy_with(userinfo=b""))


def _key(given: str | None, what: str) -> str | None:
    """Return a key without the blanks around it, as the service reads its own."""
    key = (given or "").strip()
    if not key.isprintable():
        raise ClientError(f"the {what} has a character that no header can hold")
    return key or None
