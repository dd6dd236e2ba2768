"""What a serialised ONNX graph may not do: lead its reader to another file.

A tensor may say that its numbers lie elsewhere, by a path. A bundle's graphs hold all of theirs, so such a path is
damage or an attack, and it is found before a runtime follows it. The online side has no `onnx`: the messages of
`onnx.proto` that lead to a tensor are walked here, the others are skipped by their length.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MOST_DEPTH = 100
"""Of messages in messages; protobuf's own limit."""

# By message: which fields hold a message that leads to a tensor.
_LEADS_ON: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


class GraphFileError(ValueError):
    """The bytes are not a graph that holds all of its numbers."""


def check_self_contained(data: bytes) -> None:
    """Raise GraphFileError if a serialised model names another file, or is not a serialised model."""
    _check(memoryview(data), "Model", 0)


def _check(message: memoryview, kind: str, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise GraphFileError("messages lie too deep in each other")
    leads_on = _LEADS_ON[kind]
    for number, value in _fields(message):
        if kind == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            raise GraphFileError("a tensor lies in another file")
        if number not in leads_on:
            continue
        if not isinstance(value, memoryview):
            raise GraphFileError(f"field {number} of {kind} is not a message")
        _check(value, leads_on[number], depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, "memoryview | int"]]:
    """Yield number and value of each field; numbers of fixed width, which none of ours has, come as 0."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value
        elif kind in (_FIXED64, _FIXED32):
            position = _end(message, position, 8 if kind == _FIXED64 else 4)
            yield tag >> 3, 0
        elif kind == _LENGTH:
            length, position = _varint(message, position)
            start, position = position, _end(message, position, length)
            yield tag >> 3, message[start:position]
        else:
            raise GraphFileError(f"a field is of the wire type {kind}")


def _end(message: memoryview, start: int, length: int) -> int:
    if start + length > len(message):
        raise GraphFileError("it ends amid a field")
    return start + length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise GraphFileError("it ends amid a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise GraphFileError("a number has too many bytes")
