"""Arrays from files that nobody vouches for: a header is believed only as far as there are bytes for it."""

import ast
import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MAGIC = b"\x93NUMPY"
_MOST_HEADER_BYTES = 4096
_MOST_ARRAYS = 64


class ArrayFileError(ValueError):
    """The bytes are not the arrays that were expected."""


def read_npy(data: bytes | memoryview, dtype: DTypeLike) -> NDArray[Any]:
    """Return the array of an npy file; raises ArrayFileError.

    numpy's own reader makes room for what the header claims before it looks how much is there.
    """
    view = memoryview(data)
    descr, fortran_order, shape, start = _header(view)
    expected = np.dtype(dtype)
    if descr != expected.str:
        raise ArrayFileError(f"it holds {str(descr)[:40]!r}, not {expected.name}")
    if math.prod(shape) * expected.itemsize != len(view) - start:
        raise ArrayFileError(f"its header claims another size than there are bytes ({len(view)})")
    try:
        return np.frombuffer(view[start:], expected).reshape(shape, order="F" if fortran_order else "C").copy()
    except ValueError as error:  # a shape of more dimensions, or of larger ones beside a 0, than numpy has
        raise ArrayFileError(f"its shape is none: {error}") from error


def read_npz(data: bytes, dtypes: Mapping[str, DTypeLike]) -> dict[str, NDArray[Any]]:
    """Return the named arrays of an npz file; raises ArrayFileError.

    Only members that are stored as they are get read, so that memory is bounded by the file's size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > _MOST_ARRAYS:
                raise ArrayFileError(f"it holds more than {_MOST_ARRAYS} arrays")
            return {name: read_npy(_member(archive, name, len(data)), dtype) for name, dtype in dtypes.items()}
    except ArrayFileError:
        raise
    except Exception as error:  # zipfile has many words for a file that is not one of its own
        raise ArrayFileError(f"it is no npz file: {error!r}") from error


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int) -> bytes:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ArrayFileError(f"it holds no {name}") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ArrayFileError(f"{name} is compressed")
    if info.file_size > most_bytes:
        raise ArrayFileError(f"{name} claims to be larger than the file")
    return archive.read(info)


def _header(view: memoryview) -> tuple[object, bool, tuple[int, ...], int]:
    """Return type, order and shape of an npy file, and where its numbers begin."""
    if bytes(view[:6]) != _MAGIC or len(view) < 12 or view[6] not in (1, 2, 3):
        raise ArrayFileError("it is no npy file")
    start, width = (10, 2) if view[6] == 1 else (12, 4)
    length = int.from_bytes(view[8 : 8 + width], "little")
    if length > min(_MOST_HEADER_BYTES, len(view) - start):
        raise ArrayFileError("its header is too long")
    try:
        header = ast.literal_eval(bytes(view[start : start + length]).decode("latin1"))
        descr, fortran_order, shape = header["descr"], header["fortran_order"], header["shape"]
    except Exception as error:  # whatever Python says of text that is not Python
        raise ArrayFileError("its header cannot be read") from error
    if type(fortran_order) is not bool or not _is_shape(shape):
        raise ArrayFileError("its header cannot be read")
    return descr, fortran_order, shape, start + length


def _is_shape(shape: object) -> bool:
    return isinstance(shape, tuple) and len(shape) <= 32 and all(type(size) is int and size >= 0 for size in shape)
