"""Routes of the catalogue: one item, or many as lines."""

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from contract.codec import CodecError
from contract.schema import Schema
from service import item_json, openapi
from service.auth import require_admin, require_read
from service.body import decode, read_body, read_lines
from service.bulk_items import write_lines
from service.connection import REDIS_ERRORS, or_unavailable
from service.errors import InvalidError, NotFoundError
from service.path_ids import PathId
from service.replica import Replica

router = APIRouter(prefix="/v1/items", tags=["items"])


@router.put("/{item_id}", status_code=204, dependencies=[Depends(require_admin)], openapi_extra=openapi.item)
async def put_item(item_id: PathId, request: Request) -> Response:
    """Add or replace an item; every replica ranks with it within a second."""
    replica: Replica = request.app.state.replica
    item = decode(await read_body(request, replica.settings), item_json.decoder)
    if item.item_id not in (None, item_id):
        raise InvalidError(f"is {item.item_id} in the body and {item_id} in the path", "item_id")
    value = item_json.pack_item(item, _features(replica))
    with or_unavailable("the item was not stored"):
        await replica.items.write([item_id], [value])
    replica.metrics.count_written("items")
    return Response(status_code=204)


@router.post("", dependencies=[Depends(require_admin)], openapi_extra=openapi.item_lines)
async def post_items(request: Request) -> Response:
    """Add or replace any number of items, one line of JSON each; wrong lines are reported, the others stored."""
    replica: Replica = request.app.state.replica
    lines = read_lines(request, replica.settings)
    result = await write_lines(lines, replica.items, _features(replica))
    replica.metrics.count_written("items", result.written)
    return Response(msgspec.json.encode(result), media_type="application/json")


@router.post("/accept-loss", status_code=204, dependencies=[Depends(require_admin)])
async def accept_loss(request: Request) -> Response:
    """Say that items which Redis lost are gone for good: every replica forgets them and is degraded no more."""
    replica: Replica = request.app.state.replica
    with or_unavailable("the loss was not accepted"):
        await replica.items.accept_loss()
    return Response(status_code=204)


@router.get("/{item_id}", dependencies=[Depends(require_read)], openapi_extra=openapi.answers_item)
async def get_item(item_id: PathId, request: Request) -> Response:
    """Return an item as it is stored, or as it was last seen while Redis is away."""
    replica: Replica = request.app.state.replica
    try:
        value = (await replica.items.read([item_id]))[item_id]
    except REDIS_ERRORS:
        value = await replica.last_seen(item_id)
    if value is None:
        raise NotFoundError(f"there is no item {item_id}")
    try:
        item = item_json.unpack_item(item_id, value)
    except CodecError as error:
        raise NotFoundError(f"item {item_id} is stored, but not readable: {error}") from error
    return Response(msgspec.json.encode(item), media_type="application/json")


@router.delete("/{item_id}", status_code=204, dependencies=[Depends(require_admin)])
async def delete_item(item_id: PathId, request: Request) -> Response:
    """Delete an item; to delete one that is not there is no error."""
    replica: Replica = request.app.state.replica
    with or_unavailable("the item was not deleted"):
        await replica.items.delete([item_id])
    replica.metrics.count_written("items")
    return Response(status_code=204)


def _features(replica: Replica) -> Schema:
    return replica.registry.serving.scorer.features
