"""Routes of models: what serves, what else there is, promotion and the way back."""

import asyncio

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from contract import wire
from contract.manifest import Manifest
from service import openapi
from service.auth import require_admin
from service.body import decode, read_body
from service.errors import NotFoundError
from service.replica import Replica

router = APIRouter(prefix="/v1/models", tags=["models"])

_PROMOTION = msgspec.json.Decoder(wire.Promotion)


@router.get("", dependencies=[Depends(require_admin)], openapi_extra=openapi.answers_models)
async def get_models(request: Request) -> Response:
    """Return what this replica serves, what is active, and the versions in the store."""
    replica: Replica = request.app.state.replica
    return await _models(replica)


@router.post("/{model}/promote", dependencies=[Depends(require_admin)], openapi_extra=openapi.promotion)
async def promote(model: str, request: Request) -> Response:
    """Make a version active: loaded and checked here first, then followed by every replica."""
    replica = _replica_of(model, request)
    promotion = decode(await read_body(request, replica.settings.max_body_bytes), _PROMOTION)
    await replica.registry.promote(promotion.version)
    return await _models(replica)


@router.post("/{model}/rollback", dependencies=[Depends(require_admin)], openapi_extra=openapi.answers_models)
async def rollback(model: str, request: Request) -> Response:
    """Make the version active again that was so before."""
    replica = _replica_of(model, request)
    await replica.registry.rollback()
    return await _models(replica)


def _replica_of(model: str, request: Request) -> Replica:
    replica: Replica = request.app.state.replica
    if model != replica.settings.model:
        raise NotFoundError(f"there is no model {model!r} here")
    return replica


async def _models(replica: Replica) -> Response:
    state = await replica.registry.state()
    manifests = await asyncio.to_thread(replica.registry.versions)
    info = wire.ModelInfo(
        name=replica.settings.model,
        serving=state.serving,
        active=state.active,
        previous=state.previous,
        provider=replica.registry.serving.scorer.provider,
        kernels=dict(replica.registry.serving.scorer.kernels),
        problem=state.problem,
        versions=[_version(manifest) for manifest in manifests],
    )
    return Response(msgspec.json.encode(wire.Models([info])), media_type="application/json")


def _version(manifest: Manifest) -> wire.VersionInfo:
    provenance = manifest.provenance
    return wire.VersionInfo(
        version=manifest.version,
        created=manifest.created.isoformat(),
        auc=provenance.auc,
        log_loss=provenance.log_loss,
        precision=manifest.precision,
    )
