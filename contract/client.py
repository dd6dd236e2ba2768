"""A client of the HTTP interface: every request of `contract.exchange` as a method, sent by httpx."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from contract import exchange
from contract.client_errors import ClientError
from contract.course import FAILURES, POOL, Caller, Pool
from contract.exchange import Exchange, PromotionOptions, RankOptions
from contract.retry import ONCE, PATIENT, Retry
from contract.wire import BulkResult, Item, ModelInfo, Models, Ranking, RankRequest, TrialReport

__all__ = ["ONCE", "PATIENT", "Client", "ClientError", "Pool", "Retry"]

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"


class Client:
    """Talks to one service; may be shared by threads.

    Every method raises ClientError, or one of its kinds (`contract.client_errors`), with the service's own reason.
    What is safe to repeat is repeated (`contract.retry`): everything but promotions and the acceptance of a loss.

    Parameters
    ----------
    url
        Such as `http://127.0.0.1:8000`.
    admin_key
        Needed to write where the service has one.
    timeout_s
        How long an answer may take; promotions, which load a model, and catalogues may take ten minutes.
    read_key
        Needed to read and to rank where the service has one; the admin key serves as well.
    retry
        How what fails is tried again; `ONCE` does not.
    pool
        How many connections are kept.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        admin_key: str | None = None,
        timeout_s: float = 10,
        *,
        read_key: str | None = None,
        retry: Retry = PATIENT,
        pool: Pool = POOL,
    ) -> None:
        self._caller = Caller.to(url, admin_key, read_key, timeout_s, retry)
        self._http = httpx.Client(base_url=url, limits=pool.limits)

    def __repr__(self) -> str:
        return f"Client({self._caller.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rank(self, user_id: int, candidates: Sequence[int], **options: Unpack[RankOptions]) -> Ranking:
        """Rank one user's candidates; `options` are further fields of RankRequest.

        With `deadline_ms` nothing is tried again after it, and what is tried again says how much of it is left.
        """
        return self._call(exchange.rank(user_id, candidates, **options))

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Ranking]:
        """Rank several users' candidates at once."""
        return self._call(exchange.rank_many(requests))

    def append_events(self, user_id: int, item_ids: Sequence[int], idempotency_key: str | None = None) -> None:
        """Append items, oldest first, to a user's history.

        The key says that a repetition is one: without one, the client makes its own for its own retries.
        """
        self._call(exchange.append_events(user_id, item_ids, self._caller.event_key(idempotency_key)))

    def history(self, user_id: int) -> list[int]:
        """Return a user's stored history, oldest first."""
        return self._call(exchange.history(user_id))

    def put_history(self, user_id: int, item_ids: Sequence[int]) -> None:
        """Replace a user's history."""
        self._call(exchange.put_history(user_id, item_ids))

    def delete_history(self, user_id: int) -> None:
        """Forget a user's history."""
        self._call(exchange.delete_history(user_id))

    def item(self, item_id: int) -> Item:
        """Return an item of the catalogue."""
        return self._call(exchange.item(item_id))

    def put_item(self, item_id: int, item: Item) -> None:
        """Add or replace an item."""
        self._call(exchange.put_item(item_id, item))

    def put_items(self, items: Sequence[Item]) -> BulkResult:
        """Add or replace many items; wrong ones are reported by line, the others stored."""
        return self._call(exchange.put_items(items))

    def delete_item(self, item_id: int) -> None:
        """Delete an item."""
        self._call(exchange.delete_item(item_id))

    def accept_loss(self) -> None:
        """Say that items which Redis lost, and which replicas still rank, are gone for good."""
        self._call(exchange.accept_loss())

    def models(self) -> Models:
        """Return what serves and what else is in the store."""
        return self._call(exchange.models())

    def model(self, name: str = "qin") -> ModelInfo:
        """Return what serves of one model and what else of it is in the store."""
        return self._call(exchange.model(name))

    def promote(self, version: str, model: str = "qin", **options: Unpack[PromotionOptions]) -> Models:
        """Make a version active, or give it a trial; returns once it serves."""
        return self._call(exchange.promote(version, model, **options))

    def rollback(self, model: str = "qin") -> Models:
        """End the trial that is under way, or make the version active again that was so before."""
        return self._call(exchange.rollback(model))

    def trial(self, model: str = "qin") -> TrialReport:
        """Return how the version on trial does; raises MissingError where none is."""
        return self._call(exchange.trial(model))

    def _call(self, wanted: Exchange[T]) -> T:
        course = self._caller.course(wanted)
        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = self._http.request(**course.send(), extensions={"trace": course.trace})
            except FAILURES as error:
                outcome = error
            pause_s = course.take(outcome)
            if pause_s is None:
                return course.result
            time.sleep(pause_s)
