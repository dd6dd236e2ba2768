"""Tensors of the Open Inference Protocol, out of a body and into one: JSON, or bytes after the JSON object."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from contract.inference import InputTensor, PaddedId
from service.body import decode
from service.errors import InvalidError

_INT64 = np.dtype("<i8")
_NESTED = re.compile(rb"\s*\[\s*\[")
_FLAT_ROWS = msgspec.json.Decoder(list[PaddedId])
_NESTED_ROWS = msgspec.json.Decoder(list[list[PaddedId]])


def header_length(sent: str | None, body: bytes) -> int:
    """Return how much of a body is its JSON object, by the header `Inference-Header-Content-Length`.

    Raises
    ------
    InvalidError
        The header is not a number, or more than the body.
    """
    if sent is None:
        return len(body)
    if not (sent.isascii() and sent.isdecimal() and len(sent) < 20 and int(sent) <= len(body)):
        raise InvalidError(f"must be a number up to the body's {len(body)} bytes", "Inference-Header-Content-Length")
    return int(sent)


def read_tensors(
    inputs: Sequence[InputTensor], names: Sequence[str], body: bytes, start: int
) -> dict[str, NDArray[np.int64]]:
    """Return the inputs by name, in the shapes that they have; binary ones are views of the body.

    Parameters
    ----------
    inputs
        What the JSON object says.
    names
        The inputs that the model has, all of them INT64.
    body
        The whole body.
    start
        Where its binary part begins.

    Raises
    ------
    InvalidError
        An input is unknown or sent twice, is not INT64, or its shape and its data differ.
    """
    tensors: dict[str, NDArray[np.int64]] = {}
    for tensor in inputs:
        if tensor.name not in names:
            raise InvalidError(f"there is no input {tensor.name!r}; inputs are {', '.join(names)}")
        if tensor.name in tensors:
            raise InvalidError("is there twice", tensor.name)
        if tensor.datatype != "INT64":
            raise InvalidError(f"must be INT64, not {tensor.datatype}", tensor.name)
        if tensor.parameters is not None and tensor.parameters.shared_memory_region is not None:
            raise InvalidError("shared memory is not supported", tensor.name)
        size = None if tensor.parameters is None else tensor.parameters.binary_data_size
        if size is None:
            values = _from_json(tensor)
        else:
            values = _from_bytes(tensor, body, start, size)
            start += size
        tensors[tensor.name] = values.reshape(tensor.shape)
    if start != len(body):
        raise InvalidError(f"{len(body) - start} bytes follow that are no input's")
    return tensors


def _from_bytes(tensor: InputTensor, body: bytes, start: int, size: int) -> NDArray[np.int64]:
    num_values = math.prod(tensor.shape)
    if size != num_values * _INT64.itemsize:
        raise InvalidError(f"{size} bytes where {tensor.shape} takes {num_values * _INT64.itemsize}", tensor.name)
    if start + size > len(body):
        raise InvalidError(f"{size} bytes where the body has {len(body) - start} left", tensor.name)
    return np.frombuffer(body, _INT64, num_values, start).astype(np.int64, copy=False)


def _from_json(tensor: InputTensor) -> NDArray[np.int64]:
    data = bytes(tensor.data)
    if not data:
        raise InvalidError("needs either data or the parameter binary_data_size", tensor.name)
    try:
        values = _unnested(tensor, data) if _NESTED.match(data) else decode(data, _FLAT_ROWS)
    except InvalidError as error:
        raise InvalidError(error.detail, f"{tensor.name}.data{error.field or ''}") from None
    if len(values) != math.prod(tensor.shape):
        raise InvalidError(f"{len(values)} values where the shape is {tensor.shape}", tensor.name)
    return np.array(values, dtype=np.int64)


def _unnested(tensor: InputTensor, data: bytes) -> list[int]:
    differs = InvalidError(f"is not nested like the shape {tensor.shape}")
    # Counted first: of lists with a number each, those that a body can hold take half a second to read.
    if len(tensor.shape) != 2 or data.count(b"[") != 1 + tensor.shape[0]:
        raise differs
    rows = decode(data, _NESTED_ROWS)
    if {len(row) for row in rows} != {tensor.shape[1]}:
        raise differs
    return [value for row in rows for value in row]


@dataclass(frozen=True, slots=True)
class Output:
    """An output to send: an array, or for BYTES a list of texts."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: NDArray[Any] | list[str]

    def described(self, binary: bool, parts: list[Any]) -> Mapping[str, Any]:
        """Return what stands of the output in the JSON object; binary data is put to the parts that follow it."""
        said: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": self.shape}
        if not binary:
            said["data"] = self.values if isinstance(self.values, list) else self.values.ravel()
            return said
        part = _with_lengths(self.values) if isinstance(self.values, list) else self.values.data
        said["parameters"] = {"binary_data_size": part.nbytes if isinstance(part, memoryview) else len(part)}
        parts.append(part)
        return said


def _with_lengths(texts: list[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
