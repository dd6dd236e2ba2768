"""What the CUDA library is compiled from: the sources, the flags, and the architectures that it holds code for."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

CUDA_SOURCES = Path(__file__).resolve().parent / "cuda"

UNITS = ("ops", "attention", "tower")
"""The `.cu` files, compiled one by one."""

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
"""Compute capabilities that the library holds machine code for; of the last one it holds PTX too, for newer ones."""

BASE = (
    *("-std=c++17", "-O3", "--extra-device-vectorization", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"),
    *("-Xcompiler", "-fno-exceptions,-fno-rtti", "-cudart", "static"),
)


def code_flags(architectures: Sequence[str] = ARCHITECTURES) -> tuple[str, ...]:
    """Return the flags that ask for machine code of each architecture, and for PTX of the last."""
    newest = architectures[-1]
    machine_code = (f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures)
    return (*machine_code, f"-gencode=arch=compute_{newest},code=compute_{newest}")


def architecture_names(architectures: Sequence[str] = ARCHITECTURES) -> tuple[str, ...]:
    """Return what `CudaKernelLibrary.architectures` says of a library made for these."""
    return (*(f"sm_{name}" for name in architectures), f"compute_{architectures[-1]}")


def fingerprint(sources: Path = CUDA_SOURCES) -> str:
    """Return the SHA-256, in hexadecimal, of all sources, shared ones included, and of the flags."""
    digest = hashlib.sha256(repr(BASE).encode())
    shared = sources.parent / "common"
    paths = [*sources.iterdir(), *(shared.iterdir() if shared.is_dir() else ())]
    for path in sorted(path for path in paths if path.suffix in (".h", ".cuh", ".cu", ".cpp")):
        content = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
