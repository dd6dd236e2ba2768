"""What the CUDA library is compiled from: the sources, the flags, and the architectures that it holds code for."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

CUDA_SOURCES = Path(__file__).resolve().parent / "cuda"

UNITS = ("ops", "attention", "tower")
"""The `.cu` files, compiled one by one."""

SHARED = ("kernels.h", "operands.h", "ort_api.h")
"""Headers of the CPU's kernels that these include."""

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
"""Compute capabilities that the library holds machine code for; of the last one it holds PTX too, for newer ones."""

FLAGS = (
    *("-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti"),
    *("-Xcompiler", "-Wall,-Wextra"),
)
LINK_FLAGS = (
    # The runtime is inside: a machine that serves needs the driver and nothing else of CUDA.
    *("-cudart", "static", "-Xcompiler", "-static-libgcc,-static-libstdc++"),
    *("-Xlinker", "-z,defs", "-Xlinker", "--exclude-libs,ALL", "-Xlinker", "--strip-debug"),
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
    digest = hashlib.sha256(repr((FLAGS, LINK_FLAGS)).encode())
    shared = (sources.parent / "cpu" / name for name in SHARED)
    own = (path for path in sources.iterdir() if path.suffix in (".h", ".cuh", ".cu"))
    for path in sorted(path for path in (*own, *shared) if path.is_file()):
        content = path.read_bytes()
        digest.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
