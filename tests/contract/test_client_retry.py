"""Both clients against a server that misbehaves."""

import asyncio
import inspect
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from contract.async_client import AsyncClient
from contract.client import ONCE, Client, ClientError, Pool, Retry
from contract.client_errors import (
    AtOddsError,
    BadRequestError,
    BusyError,
    MissingError,
    NoAnswerError,
    NotAllowedError,
    RefusedError,
    TooLateError,
)
from contract.wire import Item, RankRequest
from tests.contract.misbehaving import CLOSE, HANG, Answer, Misbehaving

RANKING = Answer(
    body=b'{"model": "qin", "version": "v1", "scores": [0.5], "unknown_items": [], "degraded": []}',
)
DONE = Answer(204, b"")
QUICK = Retry(first_pause_s=0.001)
NEVER_AGAIN_LATER = Retry(first_pause_s=1e12, longest_pause_s=1e12)
"""Only what is tried again at once is tried again within the budget."""
MODELS = Answer(body=b'{"models": []}')


class Caller:
    """Either client, called the same way; an error is returned like a result."""

    def __init__(self, kind: type[Client] | type[AsyncClient]) -> None:
        self.kind = kind

    def __call__(self, url: str, *calls: tuple[Any, ...], **options: Any) -> list[Any]:
        """Make calls, each a method's name and its arguments, one after the other with one client."""
        if self.kind is Client:
            with Client(url, **options) as client:
                return [self._outcome(client, call) for call in calls]
        return asyncio.run(self._in_loop(url, calls, options))

    async def _in_loop(self, url: str, calls: tuple[tuple[Any, ...], ...], options: dict[str, Any]) -> list[Any]:
        async with AsyncClient(url, **options) as client:
            return [await self._awaited(client, call) for call in calls]

    def _outcome(self, client: Client, call: tuple[Any, ...]) -> Any:
        name, *arguments = call
        options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        try:
            return getattr(client, name)(*arguments, **options)
        except ClientError as error:
            return error

    async def _awaited(self, client: AsyncClient, call: tuple[Any, ...]) -> Any:
        name, *arguments = call
        options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        try:
            return await getattr(client, name)(*arguments, **options)
        except ClientError as error:
            return error


@pytest.fixture(params=[Client, AsyncClient])
def call(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


RANK = ("rank", 1, [7])


def test_both_clients_have_the_same_methods():
    """Whatever one can do the other can, with the same parameters."""
    one, other = (dict(inspect.getmembers(kind, inspect.isfunction)) for kind in (Client, AsyncClient))
    public = {name for name in one if not name.startswith("_")} - {"close"}
    assert public == {name for name in other if not name.startswith("_")} - {"aclose"}
    for name in {*public, "__init__"}:
        assert inspect.signature(one[name]) == inspect.signature(other[name])
        assert inspect.iscoroutinefunction(other[name]) == (name != "__init__")


def test_a_connection_is_kept_and_used_again(call):
    """Calls one after the other go over one connection."""
    with Misbehaving(RANKING) as server:
        assert [answer.scores for answer in call(server.url, *[RANK] * 5)] == [[0.5]] * 5
        assert server.num_connections == 1


def test_a_busy_service_is_asked_again_when_it_says_so(call):
    """After 503 with Retry-After in seconds the next attempt comes no sooner."""
    with Misbehaving(Answer(503, headers={"Retry-After": "1"}), RANKING) as server:
        started = time.monotonic()
        assert call(server.url, RANK)[0].scores == [0.5]
        assert time.monotonic() - started >= 1
        assert len(server.received) == 2


def test_a_date_to_come_again_is_respected(call):
    """Retry-After may be a date as well."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    with Misbehaving(Answer(429, headers={"Retry-After": date}), RANKING) as server:
        answer = call(server.url, RANK)[0]
        assert answer.scores == [0.5]
        # A date has no parts of a second.
        assert datetime.now(UTC).replace(microsecond=0) >= datetime.strptime(
            date, "%a, %d %b %Y %H:%M:%S GMT"
        ).replace(tzinfo=UTC)


def test_nobody_waits_longer_than_the_budget_to_come_again(call):
    """A service that wants to be left alone for longer than the budget is not waited for; the error says how long."""
    with Misbehaving(Answer(503, headers={"Retry-After": "60"})) as server:
        error = call(server.url, RANK)[0]
        assert isinstance(error, BusyError)
        assert (error.status, error.retry_after_s, len(server.received)) == (503, 60, 1)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_attempts_are_counted(call, status):
    """What stays unanswered is tried as often as the policy says, and then told with its status."""
    with Misbehaving(Answer(status)) as server:
        error = call(server.url, RANK, retry=Retry(max_attempts=3, first_pause_s=0.001))[0]
        assert (error.status, len(server.received)) == (status, 3)


@pytest.mark.parametrize("step", [Answer(503), Answer(504), CLOSE, HANG], ids=["503", "504", "close", "hang"])
def test_without_retries_everything_is_tried_once(call, step):
    """Who counts failures sees each of them."""
    with Misbehaving(step) as server:
        assert isinstance(call(server.url, RANK, retry=ONCE, timeout_s=0.2)[0], ClientError)
        assert len(server.received) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_what_would_fail_again_is_not_tried_again(call, status):
    """Errors of the request, and faults of the service, come at once."""
    with Misbehaving(Answer(status)) as server:
        assert call(server.url, RANK, retry=QUICK)[0].status == status
        assert len(server.received) == 1


@pytest.mark.parametrize(
    ("again", "answer"),
    [
        (RANK, RANKING),
        (("rank_many", [RankRequest(1, [7])]), Answer(body=b'{"responses": []}')),
        (("history", 1), Answer(body=b'{"item_ids": [3]}')),
        (("put_history", 1, [3]), DONE),
        (("delete_history", 1), DONE),
        (("append_events", 1, [3]), DONE),
        (("item", 3), Answer(body=b'{"item_id": 3, "embedding": [1.0]}')),
        (("put_item", 3, Item([1.0])), DONE),
        (("put_items", [Item([1.0], 3)]), Answer(body=b'{"written": 1, "failed": 0, "errors": []}')),
        (("delete_item", 3), DONE),
        (("models",), MODELS),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_safe_to_repeat_is_repeated(call, again, answer):
    """A connection that breaks, and a service that is busy, are overcome; the request stays the same."""
    with Misbehaving(CLOSE, Answer(503), Answer(502), answer) as server:
        assert not isinstance(call(server.url, again, retry=QUICK)[0], ClientError)
        assert len(server.received) == 4
        assert len({(request.line, request.body) for request in server.received}) == 1


@pytest.mark.parametrize("step", [CLOSE, Answer(503), Answer(504)], ids=["close", "503", "504"])
@pytest.mark.parametrize("once", [("promote", "v1"), ("rollback",), ("accept_loss",)], ids=lambda once: once[0])
def test_what_is_not_safe_to_repeat_is_not_repeated(call, once, step):
    """Nobody knows whether a promotion without an answer took place, so a person must look."""
    with Misbehaving(MODELS, step) as server:
        answers = call(server.url, ("models",), once, retry=QUICK)
        assert isinstance(answers[1], ClientError)
        assert len(server.received) == 2


def test_a_connection_that_the_service_closed_meanwhile_costs_no_pause(call):
    """A request that meets the end of a kept connection is sent at once over a new one."""
    with Misbehaving(RANKING, CLOSE, RANKING) as server:
        answers = call(server.url, RANK, RANK, retry=NEVER_AGAIN_LATER)
        assert [answer.scores for answer in answers] == [[0.5], [0.5]]
        assert [request.connection for request in server.received] == [1, 1, 2]


def test_a_new_connection_that_breaks_is_followed_by_a_pause(call):
    """A service that closes new connections is not hammered."""
    with Misbehaving(CLOSE) as server:
        assert isinstance(call(server.url, RANK, retry=NEVER_AGAIN_LATER)[0], NoAnswerError)
        assert len(server.received) == 1


def test_a_service_that_hangs_is_left_when_the_budget_is_used_up(call):
    """Attempts end with the budget, however many of them were allowed; the last waits no longer than it."""
    with Misbehaving(HANG) as server:
        retry = Retry(max_attempts=1000, budget_s=0.5, first_pause_s=0.001)
        error = call(server.url, RANK, retry=retry, timeout_s=0.3)[0]
        assert isinstance(error, NoAnswerError)
        assert len(server.received) <= 2


def test_events_carry_a_key_that_makes_repeating_them_safe(call):
    """Without a key the client makes one: the same for every attempt, another for every call."""
    with Misbehaving(Answer(503), DONE) as server:
        call(server.url, ("append_events", 1, [3]), ("append_events", 1, [3]), retry=QUICK)
        keys = [request.headers["idempotency-key"] for request in server.received]
        assert keys[0] == keys[1] != keys[2]


def test_a_key_of_the_callers_own_is_kept(call):
    """A given key is sent as it is; without retries nothing is made up."""
    with Misbehaving(DONE) as server:
        call(server.url, ("append_events", 1, [3], "mine"))
        call(server.url, ("append_events", 1, [3]), retry=ONCE)
        assert [request.headers.get("idempotency-key") for request in server.received] == ["mine", None]


def test_a_repeated_rank_says_how_much_of_its_deadline_is_left(call):
    """The deadline counts from the first attempt, for one user and for several."""
    ranks = (
        (*RANK, {"deadline_ms": 5000}),
        ("rank_many", [RankRequest(1, [7], deadline_ms=5000), RankRequest(2, [7])]),
    )
    for again, answer in zip(ranks, (RANKING, Answer(body=b'{"responses": []}')), strict=True):
        with Misbehaving(Answer(503), answer) as server:
            call(server.url, again, retry=QUICK)
            bodies = [request.json for request in server.received]
            first, second = ([one["deadline_ms"] for one in body.get("requests", [body])] for body in bodies)
            assert 0 < second[0] < first[0] == 5000
            assert first[1:] == second[1:]


def test_nothing_is_repeated_past_the_deadline(call):
    """A service that is busy for longer than the deadline is not asked again, and none that is silent waited for."""
    with Misbehaving(Answer(503, headers={"Retry-After": "3"})) as server:
        assert isinstance(call(server.url, (*RANK, {"deadline_ms": 2000}))[0], BusyError)
        assert len(server.received) == 1
    with Misbehaving(HANG) as server:
        started = time.monotonic()
        error = call(server.url, (*RANK, {"deadline_ms": 50}), timeout_s=300)[0]
        assert isinstance(error, NoAnswerError)
        assert time.monotonic() - started < 100


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (413, BadRequestError),
        (422, BadRequestError),
        (401, NotAllowedError),
        (403, NotAllowedError),
        (404, MissingError),
        (409, AtOddsError),
        (429, BusyError),
        (503, BusyError),
        (504, TooLateError),
        (500, RefusedError),
    ],
)
def test_errors_tell_all_that_the_service_said(call, status, kind):
    """Kind, status, reason, field, when to come again and the request's id."""
    body = (
        b'{"type": "about:blank", "title": "No", "status": %d, "detail": "too odd", "field": "candidates[3]"}'
        % status
    )
    headers = {"Retry-After": "7", "X-Request-Id": "abc-1"}
    with Misbehaving(Answer(status, body, headers)) as server:
        error = call(server.url, RANK, retry=ONCE)[0]
        assert type(error) is kind
        assert str(error) == "candidates[3]: too odd"
        assert (error.status, error.field, error.retry_after_s) == (status, "candidates[3]", 7)
        assert error.request_id == "abc-1"


@pytest.mark.parametrize("status", [200, 422])
@pytest.mark.parametrize(
    "body", [b'{"model": "\xff", "detail": "\xff"}', b'{"x": ' + b"[" * 100_000], ids=["bytes", "deep"]
)
def test_whatever_comes_back_is_an_error_of_the_client(call, body, status):
    """Neither bytes that are no text nor lists in lists without end lead to anything but a ClientError."""
    with Misbehaving(Answer(status, body)) as server:
        (error,) = call(server.url, RANK, retry=ONCE)
        assert isinstance(error, ClientError)


@pytest.mark.parametrize("value", ["soon", "-3", "", "Thu, 99 Foo 2026", f"Thu, 1 Jan {10**20} 00:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_ignored(call, value):
    """Nonsense in the header is as good as no header."""
    with Misbehaving(Answer(503, headers={"Retry-After": value}), RANKING) as server:
        assert call(server.url, RANK, retry=QUICK)[0].scores == [0.5]


def test_a_date_that_is_past_means_now(call):
    """A Retry-After in the past asks for no pause."""
    with Misbehaving(Answer(503, headers={"Retry-After": "Thu, 01 Jan 2015 00:00:00 GMT"})) as server:
        assert call(server.url, RANK, retry=ONCE)[0].retry_after_s == 0


def test_each_key_goes_where_it_is_needed(call):
    """Reading sends the read key where there is one, writing the admin key and never the other."""
    with Misbehaving(DONE) as server:
        write, read = ("put_history", 1, [3]), ("history", 1)
        call(server.url, write, read, admin_key=" admin\n", read_key="reader")
        call(server.url, write, read, admin_key="admin")
        call(server.url, write, read, read_key="reader")
        sent = [request.headers.get("authorization") for request in server.received]
        assert sent[:4] == ["Bearer admin", "Bearer reader", "Bearer admin", "Bearer admin"]
        assert sent[4:] == [None, "Bearer reader"]


def test_no_secret_is_in_anything_that_the_clients_say(call):
    """Neither representations nor errors with all that led to them show keys or passwords."""
    said, secrets = [], ("s3cret", "passw0rd")
    keys = {"admin_key": "s3cret-admin", "read_key": "s3cret-read"}
    for step in (Answer(503), Answer(401), Answer(body=b"<html>"), CLOSE, HANG):
        with Misbehaving(step) as server:
            url = server.url.replace("http://", "http://user:passw0rd@")
            said += call(url, RANK, ("put_history", 1, [3]), **keys, retry=ONCE, timeout_s=0.1)
    said += call("http://user:passw0rd@127.0.0.1:1", RANK, **keys, retry=ONCE)
    assert len(said) == 11
    for error in said:
        text = "".join(traceback.format_exception(error))
        assert not any(secret in text for secret in secrets), text
    client = call.kind("http://user:passw0rd@127.0.0.1:1", **keys)
    shown = repr(client) + repr(vars(client))
    assert "127.0.0.1:1" in shown
    assert not any(secret in shown for secret in secrets), shown


@pytest.mark.parametrize(
    ("url", "key"),
    [("http://127.0.0.1:1", "s3cret\nX: 1"), ("http://127.0.0.1:1", "s3cr\0t"), ("http://u:s3cret@h:port", "k")],
)
def test_a_key_or_a_url_that_cannot_be_one_is_refused_unquoted(call, url, key):
    """What no header can hold, or no URL is, fails when the client is made, without its text."""
    with pytest.raises(ClientError) as caught:
        call.kind(url, key)
    assert "s3cr" not in "".join(traceback.format_exception(caught.value))


def test_a_pool_bounds_the_connections():
    """However many threads share a client, no more requests are under way than there may be connections."""
    slow = Answer(body=RANKING.body, delay_s=0.01)
    with Misbehaving(slow) as server, Client(server.url, pool=Pool(max_connections=2), timeout_s=60) as client:
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda user: client.rank(user, [7]), range(100)))
        assert len(answers) == 100
        assert server.most_at_once == 2
