"""The Open Inference Protocol's repository of models: what there is, and which version is to serve."""

import asyncio

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from contract import inference as wire
from contract.manifest import Manifest
from service import v2_openapi as openapi
from service.auth import require_admin
from service.body import decode, read_body
from service.errors import ConflictError, InvalidError, NotFoundError
from service.loaded import loaded
from service.replica import Replica

router = APIRouter(prefix="/v2/repository", tags=["model repository"], dependencies=[Depends(require_admin)])

_INDEX = msgspec.json.Decoder(wire.IndexRequest)
_REQUEST = msgspec.json.Decoder(wire.RepositoryRequest)
_CONFIG = msgspec.json.Decoder(wire.TritonConfig)


@router.post("/index", openapi_extra=openapi.index)
async def index(request: Request) -> Response:
    """Return every version in the store, or those that rank here."""
    replica: Replica = request.app.state.replica
    body = await read_body(request, replica.settings)
    ready_only = decode(body, _INDEX).ready if body else False
    names = {version.name for version in replica.registry.lineup.versions}
    stored = {manifest.version for manifest in await _stored(replica)}
    state = await replica.registry.state()
    model, reasons = replica.settings.model, {state.active: state.problem or "being loaded"}
    entries = [
        wire.IndexEntry(model, name, "READY", "")
        if name in names
        else wire.IndexEntry(model, name, "UNAVAILABLE", reasons.get(name, "not loaded"))
        for name in sorted(stored | names)
        if name in names or not ready_only
    ]
    return Response(msgspec.json.encode(entries), media_type="application/json")


@router.post("/models/{model}/load", openapi_extra=openapi.load)
async def load(request: Request) -> Response:
    """Make a version active: the one that the parameters name, or else the newest of the store."""
    replica, version = await _read(request)
    if version is None:
        stored = await _stored(replica)
        if not stored:
            raise NotFoundError("the store holds no version")
        version = stored[-1].version
    await replica.registry.promote(version)
    return Response(b"{}", media_type="application/json")


@router.post("/models/{model}/unload", openapi_extra=openapi.unload)
async def unload(request: Request) -> Response:
    """Say that a version is not loaded, if so; one that ranks is exchanged by loading another, never taken away."""
    replica, version = await _read(request)
    serving, *others = (loaded.name for loaded in replica.registry.lineup.versions)
    if version in others:
        raise ConflictError(
            f"version {version} is on trial; POST /v1/models/{replica.settings.model}/rollback ends it"
        )
    if version is None or version == serving:
        raise ConflictError(f"version {serving} serves, and a model always serves; load another version in its place")
    if version not in {manifest.version for manifest in await _stored(replica)}:
        raise NotFoundError(f"the store holds no version {version!r}")
    return Response(b"{}", media_type="application/json")


async def _read(request: Request) -> tuple[Replica, str | None]:
    """Return the replica, and the version that a request to load or unload means."""
    replica: Replica = request.app.state.replica
    loaded(request)
    body = await read_body(request, replica.settings)
    parameters = decode(body, _REQUEST).parameters if body else None
    if parameters is None:
        return replica, None
    configured = None if parameters.config is None else _version_of(parameters.config)
    if configured and parameters.version and configured != parameters.version:
        raise InvalidError(f"is {configured} in the config and {parameters.version} beside it", "parameters.version")
    return replica, parameters.version or configured


def _version_of(config: str) -> str:
    """Return the version that a Triton configuration is for, which is all that it may change here."""
    try:
        policy = decode(config.encode(), _CONFIG).version_policy
    except InvalidError as error:
        raise InvalidError(error.detail, f"parameters.config.{error.field or ''}".rstrip(".")) from None
    return str(policy.specific.versions[0])


async def _stored(replica: Replica) -> list[Manifest]:
    return await asyncio.to_thread(replica.registry.versions)
