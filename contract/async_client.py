"""The client of `contract.client` for asyncio."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from contract import exchange
from contract.client import DEFAULT_URL
from contract.course import FAILURES, POOL, Caller, Pool
from contract.exchange import Exchange, PromotionOptions, RankOptions
from contract.retry import PATIENT, Retry
from contract.wire import BulkResult, Item, ModelInfo, Models, Ranking, RankRequest, TrialReport

T = TypeVar("T")


class AsyncClient:
    """Talks to one service; may be shared by the tasks of one event loop.

    Methods and parameters are those of `contract.client.Client`.
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
        self._http = httpx.AsyncClient(base_url=url, limits=pool.limits)

    def __repr__(self) -> str:
        return f"AsyncClient({self._caller.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def rank(self, user_id: int, candidates: Sequence[int], **options: Unpack[RankOptions]) -> Ranking:
        """Rank one user's candidates; `options` are further fields of RankRequest.

        With `deadline_ms` nothing is tried again after it, and what is tried again says how much of it is left.
        """
        return await self._call(exchange.rank(user_id, candidates, **options))

    async def rank_many(self, requests: Sequence[RankRequest]) -> list[Ranking]:
        """Rank several users' candidates at once."""
        return await self._call(exchange.rank_many(requests))

    async def append_events(self, user_id: int, item_ids: Sequence[int], idempotency_key: str | None = None) -> None:
        """Append items, oldest first, to a user's history.

        The key says that a repetition is one: without one, the client makes its own for its own retries.
        """
        await self._call(exchange.append_events(user_id, item_ids, self._caller.event_key(idempotency_key)))

    async def history(self, user_id: int) -> list[int]:
        """Return a user's stored history, oldest first."""
        return await self._call(exchange.history(user_id))

    async def put_history(self, user_id: int, item_ids: Sequence[int]) -> None:
        """Replace a user's history."""
        await self._call(exchange.put_history(user_id, item_ids))

    async def delete_history(self, user_id: int) -> None:
        """Forget a user's history."""
        await self._call(exchange.delete_history(user_id))

    async def item(self, item_id: int) -> Item:
        """Return an item of the catalogue."""
        return await self._call(exchange.item(item_id))

    async def put_item(self, item_id: int, item: Item) -> None:
        """Add or replace an item."""
        await self._call(exchange.put_item(item_id, item))

    async def put_items(self, items: Sequence[Item]) -> BulkResult:
        """Add or replace many items; wrong ones are reported by line, the others stored."""
        return await self._call(exchange.put_items(items))

    async def delete_item(self, item_id: int) -> None:
        """Delete an item."""
        await self._call(exchange.delete_item(item_id))

    async def accept_loss(self) -> None:
        """Say that items which Redis lost, and which replicas still rank, are gone for good."""
        await self._call(exchange.accept_loss())

    async def models(self) -> Models:
        """Return what serves and what else is in the store."""
        return await self._call(exchange.models())

    async def model(self, name: str = "qin") -> ModelInfo:
        """Return what serves of one model and what else of it is in the store."""
        return await self._call(exchange.model(name))

    async def promote(self, version: str, model: str = "qin", **options: Unpack[PromotionOptions]) -> Models:
        """Make a version active, or give it a trial; returns once it serves."""
        return await self._call(exchange.promote(version, model, **options))

    async def rollback(self, model: str = "qin") -> Models:
        """End the trial that is under way, or make the version active again that was so before."""
        return await self._call(exchange.rollback(model))

    async def trial(self, model: str = "qin") -> TrialReport:
        """Return how the version on trial does; raises MissingError where none is."""
        return await self._call(exchange.trial(model))

    async def _call(self, wanted: Exchange[T]) -> T:
        course = self._caller.course(wanted)

        async def trace(event: str, details: Mapping[str, Any]) -> None:
            course.trace(event, details)

        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = await self._http.request(**course.send(), extensions={"trace": trace})
            except FAILURES as error:
                outcome = error
            pause_s = course.take(outcome)
            if pause_s is None:
                return course.result
            await asyncio.sleep(pause_s)
