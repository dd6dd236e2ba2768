"""A file of named tensors and one text, whole or absent: safetensors with a hash, never a pickle."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from contract.files import sync_folder
from training.errors import CheckpointError, OutputError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write tensors and a text under a temporary name, sync them, then take the place of `path` in one rename."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(on_cpu, {"text": text, "sha256": _digest(on_cpu, text)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors on the CPU, and the text.

    Raises
    ------
    CheckpointError
        The file is missing, truncated, changed, or was not written by `write_tensors`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read, it may be truncated: {error}") from error
    if "text" not in metadata or "sha256" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but not one that training wrote")
    if _digest(tensors, metadata["text"]) != metadata["sha256"]:
        raise CheckpointError(f"{path} is not the file that training wrote: its contents have changed")
    return tensors, metadata["text"]


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the SHA-256 over the text and every tensor's name, type, shape and bytes."""
    whole = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader, or a crash, meets the old file or the new one and nothing between.

    Raises
    ------
    OutputError
        The folder cannot be made.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing; raises OutputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made: {error.strerror or error}") from error
