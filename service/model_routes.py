"""Routes of models: what serves, what else there is, promotion, trials and the way back."""

import asyncio
import contextlib

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from contract import wire
from contract.manifest import Manifest
from service import openapi
from service.auth import require_admin
from service.body import decode, read_body
from service.connection import REDIS_ERRORS, or_unavailable
from service.errors import InvalidError, NotFoundError
from service.lineup import Trial
from service.replica import Replica

router = APIRouter(prefix="/v1/models", tags=["models"])

_PROMOTION = msgspec.json.Decoder(wire.Promotion)


@router.get("", dependencies=[Depends(require_admin)], openapi_extra=openapi.answers_models)
async def get_models(request: Request) -> Response:
    """Return what this replica serves, what all should, what each says of itself, and the versions in the store."""
    replica: Replica = request.app.state.replica
    return await _models(replica)


@router.post("/{model}/promote", dependencies=[Depends(require_admin)], openapi_extra=openapi.promotion)
async def promote(model: str, request: Request) -> Response:
    """Make a version active, or put it on trial: loaded and checked here first, then followed by every replica."""
    replica = _replica_of(model, request)
    promotion = decode(await read_body(request, replica.settings), _PROMOTION)
    if promotion.shadow and promotion.canary is not None:
        raise InvalidError("a version in the shadow answers nobody: give canary or shadow, not both", "canary")
    found = await replica.registry.promote(
        promotion.version, promotion.canary or 0.0, promotion.shadow, promotion.force
    )
    return await _models(replica, found)


@router.post("/{model}/rollback", dependencies=[Depends(require_admin)], openapi_extra=openapi.answers_models)
async def rollback(model: str, request: Request) -> Response:
    """End the trial that is under way, or else make the version active again that was so before."""
    replica = _replica_of(model, request)
    await replica.registry.rollback()
    return await _models(replica)


@router.get("/{model}/trial", dependencies=[Depends(require_admin)], openapi_extra=openapi.answers_trial)
async def get_trial(model: str, request: Request) -> Response:
    """Return the trial that is under way, and what its shadow saw so far in all replicas."""
    replica = _replica_of(model, request)
    state = await replica.registry.state()
    with or_unavailable("the trial is not known"):
        replicas = await replica.trials.fleet.read()
        if state.trial is None:
            raise NotFoundError(f"no version of {model} is on trial")
        seen = await replica.trials.sums.report() if state.trial.shadow else None
    report = wire.TrialReport(model, state.active or state.serving, _trial(state.trial), replicas, seen)
    return Response(msgspec.json.encode(report), media_type="application/json")


def _replica_of(model: str, request: Request) -> Replica:
    replica: Replica = request.app.state.replica
    if model != replica.settings.model:
        raise NotFoundError(f"there is no model {model!r} here")
    return replica


async def _models(replica: Replica, found: wire.GateResult | None = None) -> Response:
    state = await replica.registry.state()
    manifests = await asyncio.to_thread(replica.registry.versions)
    replicas: list[wire.ReplicaInfo] = []
    with contextlib.suppress(*REDIS_ERRORS):
        replicas = await replica.trials.fleet.read()
    info = wire.ModelInfo(
        name=replica.settings.model,
        serving=state.serving,
        active=state.active,
        previous=state.previous,
        provider=replica.registry.serving.scorer.provider,
        kernels=dict(replica.registry.serving.scorer.kernels),
        problem=state.problem,
        versions=[_version(manifest) for manifest in manifests],
        trial=_trial(state.trial) if state.trial else None,
        replicas=replicas,
    )
    return Response(msgspec.json.encode(wire.Models([info], found)), media_type="application/json")


def _trial(trial: Trial) -> wire.TrialInfo:
    return wire.TrialInfo(trial.version, trial.canary or None, trial.shadow)


def _version(manifest: Manifest) -> wire.VersionInfo:
    provenance = manifest.provenance
    return wire.VersionInfo(
        version=manifest.version,
        created=manifest.created.isoformat(),
        auc=provenance.auc,
        log_loss=provenance.log_loss,
        precision=manifest.precision,
    )
