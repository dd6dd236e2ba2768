"""A small client of the HTTP interface, for the command line, demos and tests."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from contract.wire import (
    BulkResult,
    History,
    Item,
    ItemIds,
    ModelInfo,
    Models,
    Problem,
    Ranking,
    Rankings,
    RankManyRequest,
    RankRequest,
)

T = TypeVar("T")


class ClientError(Exception):
    """The service refused a request, or did not answer.

    Attributes
    ----------
    status
        The HTTP status, None where no answer came.
    field
        Path of the value that is wrong, where one is.
    """

    def __init__(self, message: str, status: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field = status, field


class Client:
    """Talks to one service; every method raises ClientError with the service's own reason.

    Parameters
    ----------
    url
        Such as `http://127.0.0.1:8000`.
    admin_key
        Needed to write where the service has one.
    timeout_s
        How long an answer may take; promotions, which load a model, may take ten minutes.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", admin_key: str | None = None, timeout_s: float = 10
    ) -> None:
        headers = {b"Authorization": b"Bearer " + admin_key.encode()} if admin_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rank(self, user_id: int, candidates: Sequence[int], top_k: int | None = None, **options: Any) -> Ranking:
        """Rank one user's candidates; `options` are further fields of RankRequest."""
        request = RankRequest(user_id, list(candidates), top_k, **options)
        return _decoded(self._send("POST", "/v1/rank", request), Ranking)

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Ranking]:
        """Rank several users' candidates at once."""
        return _decoded(self._send("POST", "/v1/rank", RankManyRequest(list(requests))), Rankings).responses

    def append_events(self, user_id: int, item_ids: Sequence[int], idempotency_key: str | None = None) -> None:
        """Append items, oldest first, to a user's history."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        self._send("POST", f"/v1/users/{user_id}/events", ItemIds(list(item_ids)), headers=headers)

    def history(self, user_id: int) -> list[int]:
        """Return a user's stored history, oldest first."""
        return _decoded(self._send("GET", f"/v1/users/{user_id}/history"), History).item_ids

    def put_history(self, user_id: int, item_ids: Sequence[int]) -> None:
        """Replace a user's history."""
        self._send("PUT", f"/v1/users/{user_id}/history", ItemIds(list(item_ids)))

    def delete_history(self, user_id: int) -> None:
        """Forget a user's history."""
        self._send("DELETE", f"/v1/users/{user_id}/history")

    def item(self, item_id: int) -> Item:
        """Return an item of the catalogue."""
        return _decoded(self._send("GET", f"/v1/items/{item_id}"), Item)

    def put_item(self, item_id: int, item: Item) -> None:
        """Add or replace an item."""
        self._send("PUT", f"/v1/items/{item_id}", item)

    def put_items(self, items: Sequence[Item]) -> BulkResult:
        """Add or replace many items; wrong ones are reported by line, the others stored."""
        content = b"\n".join(msgspec.json.encode(item) for item in items)
        return _decoded(self._send("POST", "/v1/items", content, timeout_s=600), BulkResult)

    def delete_item(self, item_id: int) -> None:
        """Delete an item."""
        self._send("DELETE", f"/v1/items/{item_id}")

    def accept_loss(self) -> None:
        """Say that items which Redis lost, and which replicas still rank, are gone for good."""
        self._send("POST", "/v1/items/accept-loss")

    def models(self) -> Models:
        """Return what serves and what else is in the store."""
        return _decoded(self._send("GET", "/v1/models"), Models)

    def model(self, name: str = "qin") -> ModelInfo:
        """Return what serves of one model and what else of it is in the store."""
        for model in self.models().models:
            if model.name == name:
                return model
        raise ClientError(f"there is no model {name!r} at {self._url}", 404)

    def promote(self, version: str, model: str = "qin") -> Models:
        """Make a version active; returns once it serves."""
        return _decoded(
            self._send("POST", f"/v1/models/{model}/promote", {"version": version}, timeout_s=600), Models
        )

    def rollback(self, model: str = "qin") -> Models:
        """Make the version active again that was so before."""
        return _decoded(self._send("POST", f"/v1/models/{model}/rollback", timeout_s=600), Models)

    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        content = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
        timeout = self._http.timeout if timeout_s is None else httpx.Timeout(timeout_s)
        try:
            response = self._http.request(method, path, content=content, headers=headers, timeout=timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClientError(f"{self._url} does not answer: {error}") from error
        if response.is_success:
            return response.content
        try:
            problem = msgspec.json.decode(response.content, type=Problem)
        except msgspec.DecodeError:
            raise ClientError(f"{method} {path}: {response.status_code}", response.status_code) from None
        where = f"{problem.field}: " if problem.field else ""
        raise ClientError(where + problem.detail, problem.status, problem.field)


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise ClientError(f"the answer is not one of this service: {error}") from error
