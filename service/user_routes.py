"""Routes of users: events to append, and whole histories."""

from typing import Annotated

import msgspec
import orjson
from fastapi import APIRouter, Depends, Header, Request, Response

from contract import wire
from contract.codec import unpack_history
from service import openapi
from service.auth import require_admin, require_read
from service.body import decode, read_body
from service.connection import or_unavailable
from service.errors import TooLargeError
from service.path_ids import PathId
from service.replica import Replica

router = APIRouter(prefix="/v1/users/{user_id}", tags=["users"])

_ITEM_IDS = msgspec.json.Decoder(wire.ItemIds)

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="makes a retry within a day safe"),
]


@router.post("/events", status_code=204, dependencies=[Depends(require_admin)], openapi_extra=openapi.item_ids)
async def append_events(user_id: PathId, request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Append items, oldest first, to what the user has seen; the next rank knows of them."""
    replica, item_ids = await _read(request)
    with or_unavailable("the events were not stored"):
        await replica.histories.append(user_id, item_ids, idempotency_key)
    replica.metrics.count_written("events", len(item_ids))
    return Response(status_code=204)


@router.get("/history", dependencies=[Depends(require_read)], openapi_extra=openapi.answers_item_ids)
async def get_history(user_id: PathId, request: Request) -> Response:
    """Return a user's stored history, oldest first; that of an unknown user is empty."""
    replica: Replica = request.app.state.replica
    with or_unavailable("the history cannot be read"):
        stored = (await replica.histories.read([user_id]))[0]
    item_ids = unpack_history(stored[: len(stored) // 8 * 8])
    return Response(
        orjson.dumps({"item_ids": item_ids}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
    )


@router.put("/history", status_code=204, dependencies=[Depends(require_admin)], openapi_extra=openapi.item_ids)
async def put_history(user_id: PathId, request: Request) -> Response:
    """Replace a user's history; the last items are kept."""
    replica, item_ids = await _read(request)
    with or_unavailable("the history was not stored"):
        await replica.histories.replace(user_id, item_ids)
    replica.metrics.count_written("histories")
    return Response(status_code=204)


@router.delete("/history", status_code=204, dependencies=[Depends(require_admin)])
async def delete_history(user_id: PathId, request: Request) -> Response:
    """Forget a user's history."""
    replica: Replica = request.app.state.replica
    with or_unavailable("the history was not deleted"):
        await replica.histories.delete(user_id)
    replica.metrics.count_written("histories")
    return Response(status_code=204)


async def _read(request: Request) -> tuple[Replica, list[int]]:
    replica: Replica = request.app.state.replica
    body = await read_body(request, replica.settings)
    item_ids = decode(body, _ITEM_IDS).item_ids
    if len(item_ids) > replica.settings.max_item_ids:
        raise TooLargeError(
            f"{len(item_ids)} items where at most {replica.settings.max_item_ids} are allowed", "item_ids"
        )
    return replica, item_ids
