"""The CUDA kernels' own sources on a GPU that the CPU plays: as a program, and as a library for ONNX Runtime."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kernels.compiler import Compiler
from kernels.cuda_sources import CUDA_SOURCES

FOLDER = Path(__file__).parent
ARCHITECTURES = ("750", "800")
"""Without and with tensor cores."""

_FLAGS = ("-std=c++17", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
# The emulator changes stacks by itself.
_ENVIRONMENT = {"ASAN_OPTIONS": "detect_stack_use_after_return=0"}


class Failed(Exception):  # noqa: N818  (as a check ends, not as a program does)
    """A kernel is wrong, or does not compile; the message is what was said about it."""


def run_emulated(
    compiler: Compiler,
    folder: Path,
    architecture: str,
    *,
    sources: Path = CUDA_SOURCES,
    flags: Sequence[str] = (),
    quick: bool = True,
    timeout_s: float = 600,
) -> str:
    """Return what the program said.

    Parameters
    ----------
    compiler
        For the host.
    folder
        Where the program goes.
    architecture
        One of ARCHITECTURES.
    sources
        `kernels/cuda`, or a copy beside a copy of `kernels/cpu`.
    flags
        For the compiler, such as a sanitizer's.
    quick
        Leave out the shapes that take longer.

    Raises
    ------
    Failed
        A case differs from the reference, or something does not compile.
    """
    program = folder / f"emulated_{architecture}"
    _build(compiler, architecture, "emulated.cpp", program, sources, flags)
    done = subprocess.run(
        [str(program), *(["--quick"] if quick else [])],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        env=os.environ | _ENVIRONMENT,
    )
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0:
        raise Failed(f"ended with status {done.returncode}\n{said}")
    return said


def build_library(compiler: Compiler, folder: Path, architecture: str) -> Path:
    """Return the CUDA library for an emulated GPU of 4 multiprocessors, which ONNX Runtime's CPU provider takes.

    It serves one run at a time.

    Raises
    ------
    Failed
        It does not compile.
    """
    library = folder / f"libqin_emulated_{architecture}.so"
    flags = (
        *("-shared", "-fPIC", "-fvisibility=hidden", f"-I{FOLDER / 'runtime'}", "-DQIN_EMULATED_PROCESSORS=4"),
        *("-DQIN_PROVIDER=nullptr", '-DQIN_ARCHITECTURES="emulated"', '-DQIN_SOURCES=""'),
    )
    _build(compiler, architecture, "library.cpp", library, CUDA_SOURCES, flags)
    return library


def _build(
    compiler: Compiler, architecture: str, unit: str, output: Path, sources: Path, flags: Sequence[str]
) -> None:
    built = compiler.run(
        *(*_FLAGS, *flags, f"-DQIN_EMULATED_ARCHITECTURE={architecture}", '-DQIN_EMULATOR="emulator.h"'),
        *(f"-I{FOLDER}", f"-I{sources}", f"-I{sources.parent / 'cpu'}"),
        *(FOLDER / unit, "-lm", "-o", output),
    )
    if built.returncode != 0:
        raise Failed(f"{unit} does not build with {compiler.version}:\n{built.stderr.strip()}")
