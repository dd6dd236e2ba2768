"""Every request that the HTTP interface takes, with what reads its answer; nothing here sends anything."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypedDict, TypeVar, Unpack

import msgspec

from contract.client_errors import ForeignAnswerError, MissingError
from contract.wire import (
    BulkResult,
    History,
    Item,
    ItemIds,
    ModelInfo,
    Models,
    Promotion,
    Ranking,
    Rankings,
    RankManyRequest,
    RankRequest,
    TrialReport,
)

T = TypeVar("T")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises where an answer is none of this service's, whatever it is."""

_LONG_S = 600
"""For what loads a model or a catalogue."""


class RankOptions(TypedDict, total=False):
    """What a rank may say beside its user and candidates; see `contract.wire.RankRequest`."""

    top_k: int | None
    history: Sequence[int] | None
    likes_level: Sequence[int] | None
    views_level: Sequence[int] | None
    deadline_ms: float | None
    explain: bool


class PromotionOptions(TypedDict, total=False):
    """What a promotion may say beside its version; see `contract.wire.Promotion`."""

    canary: float | None
    shadow: bool
    force: bool


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """One request, and what makes of its answer what the caller wants.

    Attributes
    ----------
    decode
        Makes the result of a successful answer's body; raises ClientError where that cannot be.
    body
        What is sent: bytes as they are, anything else as JSON.
    writes
        Whether the service may want the admin key.
    repeatable
        Whether doing it twice is the same as doing it once.
    least_timeout_s
        How long its answer may take at least.
    """

    method: str
    path: str
    decode: Callable[[bytes], T]
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False
    repeatable: bool = True
    least_timeout_s: float = 0

    @property
    def deadline_s(self) -> float | None:
        """How long the answer is of use, counted from the first attempt; None: for ever."""
        given = [request.deadline_ms for request in self._rank_requests() if request.deadline_ms is not None]
        return min(given) / 1000 if given else None

    def content(self, passed_s: float = 0) -> bytes | None:
        """Return the bytes to send when so much time has passed: deadlines count from when they arrive."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        if passed_s and self.deadline_s is not None:
            left = [_later(request, passed_s) for request in self._rank_requests()]
            return msgspec.json.encode(left[0] if isinstance(self.body, RankRequest) else RankManyRequest(left))
        return msgspec.json.encode(self.body)

    def _rank_requests(self) -> Sequence[RankRequest]:
        if isinstance(self.body, RankRequest):
            return (self.body,)
        return self.body.requests if isinstance(self.body, RankManyRequest) else ()


def rank(user_id: int, candidates: Sequence[int], **options: Unpack[RankOptions]) -> Exchange[Ranking]:
    """Rank one user's candidates."""
    return Exchange("POST", "/v1/rank", _reads(Ranking), rank_request(user_id, candidates, **options))


def rank_many(requests: Sequence[RankRequest]) -> Exchange[list[Ranking]]:
    """Rank several users' candidates at once."""
    return Exchange(
        "POST", "/v1/rank", lambda answer: _read(answer, Rankings).responses, RankManyRequest([*requests])
    )


def rank_request(user_id: int, candidates: Sequence[int], **options: Unpack[RankOptions]) -> RankRequest:
    """Return a RankRequest whose lists may have been given as sequences of any kind."""
    lists = {name: [*value] if isinstance(value, Sequence) else value for name, value in options.items()}
    return RankRequest(user_id, [*candidates], **lists)  # type: ignore[arg-type]


def append_events(user_id: int, item_ids: Sequence[int], idempotency_key: str | None) -> Exchange[None]:
    """Append items, oldest first, to a user's history; only with a key can that be repeated."""
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    return _write(
        "POST",
        f"/v1/users/{user_id}/events",
        ItemIds([*item_ids]),
        headers=headers,
        repeatable=idempotency_key is not None,
    )


def new_idempotency_key() -> str:
    """Return a key that no other call has."""
    return uuid.uuid4().hex


def history(user_id: int) -> Exchange[list[int]]:
    """Read a user's stored history, oldest first."""
    return Exchange("GET", f"/v1/users/{user_id}/history", lambda answer: _read(answer, History).item_ids)


def put_history(user_id: int, item_ids: Sequence[int]) -> Exchange[None]:
    """Replace a user's history."""
    return _write("PUT", f"/v1/users/{user_id}/history", ItemIds([*item_ids]))


def delete_history(user_id: int) -> Exchange[None]:
    """Forget a user's history."""
    return _write("DELETE", f"/v1/users/{user_id}/history")


def item(item_id: int) -> Exchange[Item]:
    """Read an item of the catalogue."""
    return Exchange("GET", f"/v1/items/{item_id}", _reads(Item))


def put_item(item_id: int, item: Item) -> Exchange[None]:
    """Add or replace an item."""
    return _write("PUT", f"/v1/items/{item_id}", item)


def put_items(items: Sequence[Item]) -> Exchange[BulkResult]:
    """Add or replace many items."""
    lines = b"\n".join(msgspec.json.encode(item) for item in items)
    return Exchange("POST", "/v1/items", _reads(BulkResult), lines, writes=True, least_timeout_s=_LONG_S)


def delete_item(item_id: int) -> Exchange[None]:
    """Delete an item."""
    return _write("DELETE", f"/v1/items/{item_id}")


def accept_loss() -> Exchange[None]:
    """Say that what Redis lost is gone for good: what is lost later is not meant, so it is never repeated."""
    return _write("POST", "/v1/items/accept-loss", repeatable=False)


def models() -> Exchange[Models]:
    """Read what serves and what else is in the store."""
    return Exchange("GET", "/v1/models", _reads(Models), writes=True)


def model(name: str) -> Exchange[ModelInfo]:
    """Read what serves of one model."""

    def decode(answer: bytes) -> ModelInfo:
        for found in _read(answer, Models).models:
            if found.name == name:
                return found
        raise MissingError(f"the service has no model {name!r}", 404)

    return Exchange("GET", "/v1/models", decode, writes=True)


def promote(version: str, model: str, **options: Unpack[PromotionOptions]) -> Exchange[Models]:
    """Make a version active, or give it a trial."""
    body = Promotion(version, **options)
    path = f"/v1/models/{model}/promote"
    return Exchange("POST", path, _reads(Models), body, writes=True, repeatable=False, least_timeout_s=_LONG_S)


def rollback(model: str) -> Exchange[Models]:
    """End the trial that is under way, or go back to the version that was active before."""
    path = f"/v1/models/{model}/rollback"
    return Exchange("POST", path, _reads(Models), writes=True, repeatable=False, least_timeout_s=_LONG_S)


def trial(model: str) -> Exchange[TrialReport]:
    """Read how the version on trial does."""
    return Exchange("GET", f"/v1/models/{model}/trial", _reads(TrialReport), writes=True)


def _write(
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    repeatable: bool = True,
) -> Exchange[None]:
    return Exchange(method, path, lambda _: None, body, headers or {}, writes=True, repeatable=repeatable)


def _later(request: RankRequest, passed_s: float) -> RankRequest:
    if request.deadline_ms is None:
        return request
    return msgspec.structs.replace(request, deadline_ms=max(1, request.deadline_ms - passed_s * 1000))


def _reads(kind: type[T]) -> Callable[[bytes], T]:
    return lambda answer: _read(answer, kind)


def _read(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except UNREADABLE as error:
        raise ForeignAnswerError(f"the answer is not one of this service: {error}") from error
