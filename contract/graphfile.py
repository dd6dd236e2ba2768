"""Serialised ONNX graphs: refused where they lead to another file, and taken apart into graph and weights.

A tensor may say that its numbers lie elsewhere, by a path. A bundle's graphs hold all of theirs, so such a path is
damage or an attack, and it is found before a runtime follows it. The online side has no `onnx`: the messages of
`onnx.proto` that lead to a tensor are walked here, the others are skipped by their length.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

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
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14
_GRAPH, _NODE, _INPUT, _INITIALIZER = 7, 1, 1, 5
_ELSEWHERE = bytes((0x6A, 13, 0x0A, 8, *b"location", 0x12, 1, *b"-", 0x70, 1))
"""The fields of a tensor that say so: `external_data {key: "location", value: "-"} data_location: EXTERNAL`."""
_FEWEST_BYTES = 1024
"""Of numbers that are worth taking out of a graph."""


class GraphFileError(ValueError):
    """The bytes are not a graph that holds all of its numbers."""


def check_self_contained(data: bytes) -> None:
    """Raise GraphFileError if a serialised model names another file, or is not a serialised model."""
    _check(memoryview(data), "Model", 0)


@dataclass(slots=True)
class Weight:
    """The numbers of an initialiser.

    Attributes
    ----------
    element_type
        `TensorProto.DataType`.
    raw
        Little-endian, of any alignment, within what was parsed.
    """

    element_type: int = 0
    shape: list[int] = field(default_factory=list)
    raw: memoryview = field(default_factory=lambda: memoryview(b""))


def without_weights(data: bytes, element_types: Collection[int]) -> tuple[bytes, dict[str, Weight]]:
    """Return a serialised model whose large initialisers are said to lie elsewhere, and these by their names.

    Those that no node reads, or whose name occurs twice, stay where they are.

    Parameters
    ----------
    element_types
        `TensorProto.DataType` of those that are meant; others stay where they are.

    Raises
    ------
    GraphFileError
        It is not a serialised model.
    """
    weights: dict[str, Weight] = {}

    def slim_graph(graph: memoryview) -> list[bytes | memoryview]:
        movable = _names_that_nodes_read(graph)
        return _rewritten(graph, _INITIALIZER, lambda tensor: slim_tensor(tensor, movable))

    def slim_tensor(tensor: memoryview, movable: Collection[bytes]) -> list[bytes | memoryview]:
        name, weight = _weight(tensor)
        if (
            len(weight.raw) < _FEWEST_BYTES
            or weight.element_type not in element_types
            or name.encode() not in movable
        ):
            return [tensor]
        weights[name] = weight
        others = [tensor[start:end] for number, _, start, end in _fields(tensor) if number != _RAW_DATA]
        return [*others, _ELSEWHERE]

    return b"".join(_rewritten(memoryview(data), _GRAPH, slim_graph)), weights


def _rewritten(
    message: memoryview, rewritten: int, rewrite: Callable[[memoryview], list[bytes | memoryview]]
) -> list[bytes | memoryview]:
    """Return a message in parts, those fields of it rewritten, each a message, that have the number `rewritten`."""
    parts: list[bytes | memoryview] = []
    for number, value, start, end in _fields(message):
        if number == rewritten and isinstance(value, memoryview):
            inner = rewrite(value)
            parts += [_encoded(number << 3 | _LENGTH), _encoded(sum(map(len, inner))), *inner]
        else:
            parts.append(message[start:end])
    return parts


def _names_that_nodes_read(graph: memoryview) -> set[bytes]:
    """Return the names of initialisers that a node of the graph itself reads and that occur once.

    A runtime may drop the others while it loads the graph, and then know none of that name.
    """
    read, once, twice = set[bytes](), set[bytes](), set[bytes]()
    for number, value, _, _ in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == _NODE:
            read.update(_texts(value, _INPUT))
        elif number == _INITIALIZER:
            names = set(_texts(value, _NAME))
            twice |= once & names
            once |= names
    return read & once - twice


def _texts(message: memoryview, wanted: int) -> Iterator[bytes]:
    for number, value, _, _ in _fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield bytes(value)


def _weight(tensor: memoryview) -> tuple[str, Weight]:
    """Return the name and the numbers of a tensor, none if they are not raw."""
    name, weight = "", Weight()
    for number, value, _, _ in _fields(tensor):
        if number == _DIMS:
            weight.shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number == _DATA_TYPE and isinstance(value, int):
            weight.element_type = value
        elif number == _NAME and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8", "replace")
        elif number == _RAW_DATA and isinstance(value, memoryview):
            weight.raw = value
    return name, weight


def _check(message: memoryview, kind: str, depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise GraphFileError("messages lie too deep in each other")
    leads_on = _LEADS_ON[kind]
    for number, value, _, _ in _fields(message):
        if kind == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            raise GraphFileError("a tensor lies in another file")
        if number not in leads_on:
            continue
        if not isinstance(value, memoryview):
            raise GraphFileError(f"field {number} of {kind} is not a message")
        _check(value, leads_on[number], depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, "memoryview | int", int, int]]:
    """Yield number and value of each field, and from where to where it goes.

    Numbers of fixed width, which none of ours has, come as 0.
    """
    position, length = 0, len(message)
    while position < length:
        start = position
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield tag >> 3, value, start, position
        elif kind in (_FIXED64, _FIXED32):
            position = _end(message, position, 8 if kind == _FIXED64 else 4)
            yield tag >> 3, 0, start, position
        elif kind == _LENGTH:
            size, first = _varint(message, position)
            position = _end(message, first, size)
            yield tag >> 3, message[first:position], start, position
        else:
            raise GraphFileError(f"a field is of the wire type {kind}")


def _end(message: memoryview, start: int, length: int) -> int:
    if start + length > len(message):
        raise GraphFileError("it ends amid a field")
    return start + length


def _varints(packed: memoryview) -> Iterator[int]:
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def _encoded(value: int) -> bytes:
    """Return a varint."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    if position < len(message) and (byte := message[position]) < 0x80:
        return byte, position + 1  # almost all are of one byte
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
