"""Requests of the Open Inference Protocol as a client would write them, without a library."""

import json
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

DATATYPES = {"FP32": "<f4", "BOOL": "?"}


def tensor(name: str, values: Any, **others: Any) -> dict[str, Any]:
    """An input in JSON."""
    array = np.array(values, dtype=np.int64)
    return {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.ravel().tolist(), **others}


def users_and_candidates(user: Any = 1, candidates: Any = (9, 2)) -> list[dict[str, Any]]:
    """The inputs that are always needed, of one user unless told otherwise."""
    several = isinstance(user, list)
    return [
        tensor("USER_ID", user if several else [user]),
        tensor("CANDIDATES", candidates if several else [list(candidates)]),
    ]


def binary_body(
    inputs: Sequence[tuple[str, NDArray[np.int64]]], padding: int = 0, **others: Any
) -> tuple[bytes, dict[str, str]]:
    """A body with binary inputs and the header that goes with it; `padding` blanks follow the JSON object."""
    described = [
        {
            "name": name,
            "datatype": "INT64",
            "shape": list(values.shape),
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in inputs
    ]
    header = json.dumps({"inputs": described, **others}).encode() + b" " * padding
    content = b"".join([header, *(values.astype("<i8").tobytes() for _, values in inputs)])
    return content, {"Inference-Header-Content-Length": str(len(header))}


def outputs_of(response: httpx.Response) -> dict[str, Any]:
    """The outputs of an answer by name, whether they came in JSON or as bytes."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get("Inference-Header-Content-Length", len(response.content)))
    said, rest = json.loads(response.content[:length]), response.content[length:]
    outputs: dict[str, Any] = {}
    for output in said["outputs"]:
        shape, datatype = output["shape"], output["datatype"]
        if "data" in output:
            values = output["data"]
        else:
            part, rest = np.split(np.frombuffer(rest, "u1"), [output["parameters"]["binary_data_size"]])
            values, rest = part.tobytes(), rest.tobytes()
            values = _texts(values) if datatype == "BYTES" else np.frombuffer(values, DATATYPES[datatype])
        outputs[output["name"]] = np.array(values, dtype=DATATYPES.get(datatype, object)).reshape(shape)
    assert not rest
    return outputs


def _texts(data: bytes) -> list[str]:
    texts = []
    while data:
        length = int.from_bytes(data[:4], "little")
        texts.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return texts
