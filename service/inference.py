"""One inference of the Open Inference Protocol: a body to queries, rankings to a body.

Shapes: U users, N candidates of the one who has most, H ids of the longest history that is sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from contract.inference import PADDING, InferParameters, InferRequest, InputTensor, RequestedOutput, TensorMetadata
from service.body import decode
from service.call import Call
from service.errors import InvalidError, TooLargeError
from service.query import Query
from service.ranker import Ranking
from service.tensors import Output, header_length, read_tensors

REQUIRED = (TensorMetadata("USER_ID", "INT64", [-1]), TensorMetadata("CANDIDATES", "INT64", [-1, -1]))
OPTIONAL = tuple(TensorMetadata(name, "INT64", [-1, -1]) for name in ("HISTORY", "LIKES_LEVEL", "VIEWS_LEVEL"))
OUTPUTS = (
    TensorMetadata("SCORES", "FP32", [-1, -1]),
    TensorMetadata("UNKNOWN", "BOOL", [-1, -1]),
    TensorMetadata("VERSION", "BYTES", [-1]),
)

_INPUT_NAMES = [tensor.name for tensor in REQUIRED + OPTIONAL]
_OUTPUT_NAMES = [tensor.name for tensor in OUTPUTS]
_REQUEST = msgspec.json.Decoder(InferRequest)
_NO_PARAMETERS = InferParameters()

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inference:
    """What one body asks for.

    Attributes
    ----------
    id
        To be sent back; None where none came.
    queries
        One for each user.
    shape
        (U, N), or (N,) where one user's candidates came without a dimension for users.
    wanted
        The outputs, in the order to send them, and whether each is to be binary.
    parameters
        Of the request.
    """

    id: str | None
    queries: list[Query]
    shape: tuple[int, ...]
    wanted: Mapping[str, bool]
    parameters: InferParameters

    def limit(self, call: Call) -> None:
        """Give a call the deadline that the parameters ask for."""
        call.limit(self.parameters.deadline_ms)
        if self.parameters.timeout:
            call.limit(self.parameters.timeout / 1000)


def read_inference(body: bytes, sent_header_length: str | None, max_users: int) -> Inference:
    """Return what a body asks for.

    Parameters
    ----------
    body
        A JSON object, and after it the binary inputs, if there are any.
    sent_header_length
        The header `Inference-Header-Content-Length`.
    max_users
        The limit of U.

    Raises
    ------
    RequestError
        The body is not JSON, not an inference request, or its tensors do not go together.
    """
    length = header_length(sent_header_length, body)
    request = decode(body[:length], _REQUEST)
    _check_num_users(request.inputs, max_users)
    tensors = read_tensors(request.inputs, _INPUT_NAMES, body, length)
    parameters = request.parameters or _NO_PARAMETERS
    wanted = _wanted(request.outputs or (), parameters.binary_data_output or False)
    users = _users(tensors)
    shape = tensors["CANDIDATES"].shape if "CANDIDATES" in tensors else ()
    return Inference(request.id, _queries(users, tensors), shape, wanted, parameters)


def _wanted(outputs: Sequence[RequestedOutput], binary: bool) -> dict[str, bool]:
    """Return the outputs that are asked for, or all; a parameter of an output stands before that of the request."""
    wanted: dict[str, bool] = {}
    for output in outputs:
        if output.name not in _OUTPUT_NAMES:
            raise InvalidError(f"there is no output {output.name!r}; outputs are {', '.join(_OUTPUT_NAMES)}")
        if output.name in wanted:
            raise InvalidError("is asked for twice", output.name)
        asked = output.parameters
        if asked is not None and (asked.classification is not None or asked.shared_memory_region is not None):
            raise InvalidError("neither classification nor shared memory is supported", output.name)
        wanted[output.name] = binary if asked is None or asked.binary_data is None else asked.binary_data
    return wanted or dict.fromkeys(_OUTPUT_NAMES, binary)


def _check_num_users(inputs: Sequence[InputTensor], max_users: int) -> None:
    """Raise TooLargeError by the shapes alone: data is not looked at before that is well."""
    for tensor in inputs:
        num_users = tensor.shape[0]
        if num_users > max_users and (len(tensor.shape) == 2 or tensor.name == "USER_ID"):
            raise TooLargeError(f"{num_users} users where at most {max_users} are allowed", tensor.name)


def _users(tensors: Mapping[str, Rows]) -> list[int]:
    for required in REQUIRED:
        if required.name not in tensors:
            raise InvalidError("is needed", required.name)
    users = tensors["USER_ID"]
    if (users.ndim == 2 and users.shape[1] != 1) or not users.size:
        raise InvalidError(f"has shape {list(users.shape)} where [U] or [U, 1] is right, U > 0", "USER_ID")
    if users.min() < 0:
        raise InvalidError("must not be negative", "USER_ID")
    return [int(user) for user in users.ravel()]


def _queries(users: list[int], tensors: Mapping[str, Rows]) -> list[Query]:
    candidates, history, likes, views = (
        _rows(tensors, name, len(users)) for name in ("CANDIDATES", "HISTORY", "LIKES_LEVEL", "VIEWS_LEVEL")
    )
    assert candidates is not None
    for name, levels in (("LIKES_LEVEL", likes), ("VIEWS_LEVEL", views)):
        if levels is not None and levels.shape != candidates.shape:
            raise InvalidError(f"has another shape than CANDIDATES, {list(candidates.shape)}", name)
    ends = _ends(candidates, "CANDIDATES")
    history_ends = None if history is None else _ends(history, "HISTORY")
    if 0 in ends:
        raise InvalidError(f"user {ends.index(0)} has none", "CANDIDATES")
    return [
        Query(
            user,
            candidates[u, : ends[u]],
            None if history is None or history_ends is None else history[u, : history_ends[u]],
            None if likes is None else likes[u, : ends[u]],
            None if views is None else views[u, : ends[u]],
            f"users[{u}].",
        )
        for u, user in enumerate(users)
    ]


def _rows(tensors: Mapping[str, Rows], name: str, num_users: int) -> Rows | None:
    """Return an input as a row for each user; of one user the row may come alone."""
    rows = tensors.get(name)
    if rows is None:
        return None
    if rows.ndim == 1 and num_users == 1:
        return rows[None]
    if rows.ndim != 2 or len(rows) != num_users:
        raise InvalidError(f"has shape {list(rows.shape)} where a row for each of {num_users} users is right", name)
    return rows


def _ends(rows: Rows, name: str) -> list[int]:
    """Return the length of each row without the padding at its end; nothing else may be negative."""
    negative = rows < 0
    if not negative.any():
        return [rows.shape[1]] * len(rows)
    ends = np.where(negative.any(axis=1), negative.argmax(axis=1), rows.shape[1])
    wrong = np.argwhere((np.arange(rows.shape[1]) >= ends[:, None]) & (rows != PADDING))
    if len(wrong):
        user, position = wrong[0].tolist()
        what = "is negative" if rows[user, position] < 0 else f"comes after {PADDING}, which ends a row"
        raise InvalidError(f"{rows[user, position]} {what}", f"{name}[{user}][{position}]")
    return [int(end) for end in ends]


def answer(inference: Inference, rankings: Sequence[Ranking], model: str) -> Response:
    """Return the outputs that were asked for; what is padding among the candidates has score 0."""
    parts: list[Any] = []
    content: dict[str, Any] = {"model_name": model}
    if all(ranking.version == rankings[0].version for ranking in rankings):
        content["model_version"] = rankings[0].version
    if inference.id is not None:
        content["id"] = inference.id
    degraded = dict.fromkeys(reason for ranking in rankings for reason in ranking.degraded)
    if degraded:
        content["parameters"] = {"degraded": ",".join(degraded)}
    content["outputs"] = [
        _output(name, inference.shape, rankings).described(binary, parts) for name, binary in inference.wanted.items()
    ]
    header = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return Response(header, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(len(header))}
    return Response(b"".join([header, *parts]), headers=headers, media_type="application/octet-stream")


def _output(name: str, shape: tuple[int, ...], rankings: Sequence[Ranking]) -> Output:
    if name == "VERSION":
        return Output(name, "BYTES", [len(rankings)], [ranking.version for ranking in rankings])
    if name == "SCORES":
        return Output(name, "FP32", shape, _scores(shape[-1], rankings))
    unknown = np.zeros((len(rankings), shape[-1]), dtype=np.bool_)
    for u, ranking in enumerate(rankings):
        unknown[u, ranking.unknown_items] = True
    return Output(name, "BOOL", shape, unknown)


def _scores(num_candidates: int, rankings: Sequence[Ranking]) -> NDArray[np.float32]:
    if len(rankings) == 1 and len(rankings[0].scores) == num_candidates:
        return np.ascontiguousarray(rankings[0].scores, dtype="<f4")
    scores = np.zeros((len(rankings), num_candidates), dtype="<f4")
    for u, ranking in enumerate(rankings):
        scores[u, : len(ranking.scores)] = ranking.scores
    return scores
