"""The Open Inference Protocol: what serves, how it runs and what it has done."""

from importlib.metadata import version as distribution_version

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from contract import inference as wire
from service import v2_openapi as openapi
from service.auth import require_read
from service.inference import OPTIONAL, OUTPUTS, REQUIRED
from service.loaded import Loaded, loaded
from service.replica import Replica
from service.statistics import VersionStatistics

router = APIRouter(prefix="/v2", tags=["open inference protocol"], dependencies=[Depends(require_read)])

_EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
_TRITON_TYPES = {"INT64": "TYPE_INT64", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL", "BYTES": "TYPE_STRING"}


@router.get("", openapi_extra=openapi.server_metadata)
async def server_metadata() -> Response:
    """Return what this server is, and the extensions of the protocol that it knows."""
    return _json(wire.ServerMetadata("qin", distribution_version("qin-ranker"), _EXTENSIONS))


# Before the paths of models: to a router `stats` would be a model's name.
@router.get("/models/stats", openapi_extra=openapi.statistics)
@router.get("/models/{model}/stats", openapi_extra=openapi.model_statistics)
@router.get("/models/{model}/versions/{version}/stats", openapi_extra=openapi.version_statistics)
async def statistics(request: Request) -> Response:
    """Return what the loaded versions have done in the process that answers, since it started."""
    replica: Replica = request.app.state.replica
    counted: VersionStatistics = request.app.state.statistics
    found = loaded(request)
    serving = replica.registry.serving.name
    return _json(wire.Statistics([counted.of(found.model, name, serves=name == serving) for name in found.names]))


@router.get("/models/{model}", openapi_extra=openapi.model_metadata)
@router.get("/models/{model}/versions/{version}", openapi_extra=openapi.version_metadata)
async def model_metadata(request: Request) -> Response:
    """Return a model's inputs and outputs, and the versions that may be asked for by name."""
    found = loaded(request)
    inputs, outputs = [*REQUIRED, *OPTIONAL], list(OUTPUTS)
    return _json(wire.ModelMetadata(found.model, list(found.names), "onnxruntime_onnx", inputs, outputs))


@router.get("/models/{model}/ready", openapi_extra=openapi.model_ready)
@router.get("/models/{model}/versions/{version}/ready", openapi_extra=openapi.version_ready)
async def model_ready(request: Request) -> Response:
    """Say whether a model, or one version of it, ranks here."""
    replica: Replica = request.app.state.replica
    answered = _json(wire.ModelReady(loaded(request).model, replica.ready))
    answered.status_code = 200 if replica.ready else 503
    return answered


@router.get("/models/{model}/config", openapi_extra=openapi.model_config)
@router.get("/models/{model}/versions/{version}/config", openapi_extra=openapi.version_config)
async def model_config(request: Request) -> Response:
    """Return how the model runs, in the form that Triton gives it."""
    replica: Replica = request.app.state.replica
    return _json(_config(loaded(request), replica))


def _config(found: Loaded, replica: Replica) -> dict[str, object]:
    version = replica.registry.named(found.version) if found.version else replica.registry.serving
    assert version is not None
    settings, scorer = replica.settings, version.scorer
    said = {
        "precision": scorer.bundle.manifest.precision,
        "provider": scorer.provider,
        "history_length": scorer.features.history_length,
        "max_users": settings.max_users,
        "max_candidates": settings.max_candidates,
    }
    return {
        "name": found.model,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": list(found.names)}},
        "max_batch_size": 0,
        "input": [
            {**_described(tensor), "optional": optional}
            for tensors, optional in ((REQUIRED, False), (OPTIONAL, True))
            for tensor in tensors
        ],
        "output": [_described(tensor) for tensor in OUTPUTS],
        "default_model_filename": "ranker.onnx",
        "parameters": {name: {"string_value": str(value)} for name, value in said.items()},
    }


def _described(tensor: wire.TensorMetadata) -> dict[str, object]:
    return {"name": tensor.name, "data_type": _TRITON_TYPES[tensor.datatype], "dims": tensor.shape}


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
