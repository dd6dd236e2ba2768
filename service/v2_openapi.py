"""What `/docs` says of the Open Inference Protocol."""

from typing import Any

from contract import inference as wire
from service.described import Extra, answer, answer_of, body, parameter, reference

_VERSION = "20260101T000000000Z-0123abcd"


def _input(name: str, shape: list[int], data: list[int]) -> Extra:
    return {"name": name, "datatype": "INT64", "shape": shape, "data": data}


_ONE_USER = {"inputs": [_input("USER_ID", [1], [42]), _input("CANDIDATES", [1, 3], [7, 9, 11])]}
_SEVERAL_USERS = {
    "id": "page-17",
    "inputs": [_input("USER_ID", [2], [42, 43]), _input("CANDIDATES", [2, 3], [7, 9, 11, 7, -1, -1])],
    "outputs": [{"name": "SCORES"}],
    "parameters": {"deadline_ms": 30_000},
}
_OWN_HISTORY = {
    "inputs": [
        *_ONE_USER["inputs"],
        _input("HISTORY", [1, 2], [3, 5]),
        _input("LIKES_LEVEL", [1, 3], [5, 0, 2]),
        _input("VIEWS_LEVEL", [1, 3], [6, 0, 3]),
    ]
}
_ANSWER = {
    "model_name": "qin",
    "model_version": _VERSION,
    "outputs": [
        {"name": "SCORES", "datatype": "FP32", "shape": [1, 3], "data": [0.31, 0.02, 0.5]},
        {"name": "UNKNOWN", "datatype": "BOOL", "shape": [1, 3], "data": [False, False, False]},
        {"name": "VERSION", "datatype": "BYTES", "shape": [1], "data": [_VERSION]},
    ],
}
_MODEL = parameter("model", "path", {"type": "string"}, "the model's name", "qin")
_NAMED = parameter("version", "path", {"type": "string"}, "a version that is loaded")
_HEADER_LENGTH = parameter(
    "Inference-Header-Content-Length",
    "header",
    {"type": "integer", "minimum": 0},
    "how many bytes of the body are its JSON object; binary inputs follow it",
)
_ENCODING = parameter(
    "Content-Encoding", "header", {"type": "string", "enum": ["gzip", "deflate", "identity"]}, "of the body"
)
_OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _of_model(described: Extra) -> Extra:
    return {**described, "parameters": [_MODEL, *described.get("parameters", [])]}


def _of_version(described: Extra) -> Extra:
    return {**described, "parameters": [_MODEL, _NAMED, *described.get("parameters", [])]}


def _infer() -> Extra:
    described = body(
        wire.InferRequest, one_user=_ONE_USER, several_users=_SEVERAL_USERS, own_history=_OWN_HISTORY
    ) | answer(wire.InferResponse, one_user=_ANSWER)
    described["requestBody"]["content"] |= _OCTETS
    described["responses"]["200"]["content"] |= _OCTETS
    return {**described, "parameters": [_HEADER_LENGTH, _ENCODING]}


def _ready(described: Extra, type_: type) -> Extra:
    not_ready = {"description": "not ready", "content": {"application/json": {"schema": reference(type_)}}}
    return {**described, "responses": {**described["responses"], "503": not_ready}}


_statistics = answer(wire.Statistics)
_ready_model = _ready(answer(wire.ModelReady, ready={"name": "qin", "ready": True}), wire.ModelReady)
_metadata = answer(wire.ModelMetadata)
_config = answer_of({"type": "object"})

live = answer(wire.Live, live={"live": True})
ready = _ready(answer(wire.Ready, ready={"ready": True}), wire.Ready)
server_metadata = answer(wire.ServerMetadata)
statistics, model_statistics, version_statistics = _statistics, _of_model(_statistics), _of_version(_statistics)
model_metadata, version_metadata = _of_model(_metadata), _of_version(_metadata)
model_ready, version_ready = _of_model(_ready_model), _of_version(_ready_model)
model_config, version_config = _of_model(_config), _of_version(_config)
infer, infer_version = _of_model(_infer()), _of_version(_infer())
index = body(wire.IndexRequest, required=False, everything={}, ready_ones={"ready": True}) | answer_of(
    {"type": "array", "items": reference(wire.IndexEntry)}
)
load = _of_model(
    body(wire.RepositoryRequest, required=False, newest={}, one_version={"parameters": {"version": _VERSION}})
    | answer_of({"type": "object"})
)
unload = _of_model(body(wire.RepositoryRequest, required=False, serving={}) | answer_of({"type": "object"}))

TYPES: tuple[Any, ...] = (
    wire.InferRequest,
    wire.InferResponse,
    wire.InferError,
    wire.Live,
    wire.Ready,
    wire.ModelReady,
    wire.ServerMetadata,
    wire.ModelMetadata,
    wire.IndexRequest,
    wire.IndexEntry,
    wire.RepositoryRequest,
    wire.Statistics,
)
