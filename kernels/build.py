"""Compiles the fused kernels for the kind of machine that this runs on: `python -m kernels.build`.

It needs the standard library and a C++ compiler, no header of ONNX Runtime: the package's build hook runs it before
anything is installed.

    KernelBuildError        a source does not compile; the message holds the compiler's own words
    └── NoCompilerError     no compiler works
"""

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kernels.library import LIBRARY, KernelLibrary, KernelLibraryError

SOURCES = Path(__file__).resolve().parent / "cpu"

_BASE = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wall", "-Wextra"),
)
_AVX512 = ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_X86_64: dict[str, tuple[str, ...]] = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512": _AVX512,
    "avx512_vnni": (*_AVX512, "-mavx512vnni"),
    "avx512_bf16": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
}
_AARCH64: dict[str, tuple[str, ...]] = {
    "neon_dot": ("-march=armv8.2-a+dotprod",),
    "neon_bf16": ("-march=armv8.6-a+bf16+dotprod",),
}
_FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": _X86_64,
    "amd64": _X86_64,
    "aarch64": _AARCH64,
    "arm64": _AARCH64,
}
"""Of each kind of machine, its instruction sets past the plain one, with the flags that their units need."""

_DEFINED = "-Wl,-z,defs"
_LINKS: tuple[tuple[str, ...], ...] = (
    # The kernels use nothing of the C++ runtime, so they are tied to no version of it. Compilers that cannot leave it
    # out altogether (GCC before 13) put in what is used of it.
    ("-static-libgcc", "-nostdlib++", _DEFINED, "-Wl,--strip-debug"),
    ("-static-libgcc", "-static-libstdc++", _DEFINED, "-Wl,--exclude-libs,ALL"),
    (_DEFINED,),
)
if sys.platform == "darwin":
    _LINKS = ((),)  # its linker knows none of these, and leaves nothing undefined anyway
_PROBE = "#include <atomic>\n#include <cmath>\n#include <cstring>\n#include <new>\n"


class KernelBuildError(Exception):
    """The library cannot be built."""


class NoCompilerError(KernelBuildError):
    """No C++ compiler works on this machine."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: the words that start it, and what it calls itself."""

    command: tuple[str, ...]
    version: str = "unknown"

    def run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run the compiler and return how it ended and what it said."""
        words = [str(argument) for argument in arguments]
        if any(Path(word).stem in ("zig", "ziglang") for word in self.command):
            # Zig compiles for the very processor that it runs on unless told otherwise, and knows no -march of ARM's.
            words = ["-mcpu=baseline", *(re.sub(r"^-march=armv[\d.]+-a", "-mcpu=generic", word) for word in words)]
        return subprocess.run(  # noqa: S603
            [*self.command, *words], capture_output=True, text=True, check=False, errors="replace"
        )

    def compiles(self, source: str, flags: Sequence[str] = ()) -> bool:
        """Whether it turns a source into an object file with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.cpp")
            path.write_text(source)
            return self.run(*_BASE, *flags, "-c", path, "-o", path.with_suffix(".o")).returncode == 0


@dataclass(frozen=True, slots=True)
class Built:
    """A library that was built."""

    path: Path
    compiler: Compiler
    instruction_sets: tuple[str, ...]
    left_out: tuple[str, ...]  # instruction sets that the compiler does not know


@dataclass(frozen=True, slots=True)
class Units:
    """The sources, compiled but not linked."""

    objects: Mapping[str, Path]  # by the source's name
    instruction_sets: tuple[str, ...]
    left_out: tuple[str, ...]  # instruction sets that the compiler does not know


def find_compiler(environment: Mapping[str, str] | None = None) -> Compiler:
    """Return the first that works of $CXX, c++, g++, clang++ and the compiler in the Python package `ziglang`.

    Raises
    ------
    NoCompilerError
        None does.
    """
    environment = os.environ if environment is None else environment
    commands = [shlex.split(environment.get("CXX", "")), ["c++"], ["g++"], ["clang++"]]
    if find_spec("ziglang") is not None:
        commands.append([sys.executable, "-m", "ziglang", "c++"])
    for command in commands:
        program = shutil.which(command[0], path=environment.get("PATH")) if command else None
        if program is None:
            continue
        compiler = Compiler((program, *command[1:]))
        if compiler.compiles(_PROBE):
            version = compiler.run("--version").stdout.partition("\n")[0].strip()
            return Compiler(compiler.command, version or "unknown")
    raise NoCompilerError("no C++ compiler works: tried $CXX, c++, g++, clang++ and the Python package ziglang")


def build(
    output: Path = LIBRARY, sources: Path = SOURCES, sanitize: str | None = None, compiler: Compiler | None = None
) -> Built:
    """Compile the library; whatever lay at `output` is replaced at once, or stays where something fails.

    Parameters
    ----------
    output
        Where the library goes.
    sources
        The folder of `ops.cpp`, `dispatch.cpp` and one `isa_*.cpp` per instruction set.
    sanitize
        `address` or `thread`: for tests, slower.
    compiler
        None takes the first that works.

    Raises
    ------
    KernelBuildError
        Something does not compile, or there is no compiler.
    """
    compiler = compiler or find_compiler()
    sanitizing = () if sanitize is None else (f"-fsanitize={sanitize}", "-g", "-O1", "-fno-omit-frame-pointer")
    with tempfile.TemporaryDirectory() as folder:
        units = compile_units(Path(folder), sources, compiler, sanitizing)
        _link(compiler, list(units.objects.values()), output, sanitizing)
    return Built(output, compiler, units.instruction_sets, units.left_out)


def compile_units(
    folder: Path,
    sources: Path,
    compiler: Compiler,
    flags: Sequence[str] = (),
    machine: str | None = None,
    without: Sequence[str] = (),
) -> Units:
    """Compile every source of the library, each with the flags of its instruction set.

    Parameters
    ----------
    folder
        Where the object files go.
    sources
        As `build` takes them.
    compiler
        One that works.
    flags
        For every source, after its own.
    machine
        The kind of machine that the compiler compiles for; None is this one.
    without
        Names of sources to pass over.

    Raises
    ------
    KernelBuildError
        Something does not compile.
    """
    candidates = _FLAGS.get((machine or platform.machine()).lower(), {})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        knows = pool.map(lambda name: compiler.compiles("", candidates[name]), candidates)
        chosen = [name for name, known in zip(candidates, knows, strict=True) if known]
        units: dict[str, tuple[str, ...]] = {
            "ops": (),
            "dispatch": tuple(f"-DQIN_WITH_{name.upper()}" for name in chosen),
            "isa_generic": (),
            **{f"isa_{name}": candidates[name] for name in chosen},
        }
        names = [name for name in units if name not in without]

        def compile_unit(name: str) -> Path:
            unit, target = sources / f"{name}.cpp", folder / f"{name}.o"
            done = compiler.run(*_BASE, *units[name], *flags, "-c", unit, "-o", target)
            if done.returncode != 0:
                raise KernelBuildError(f"{unit} does not compile with {compiler.version}:\n{done.stderr.strip()}")
            return target

        objects = dict(zip(names, pool.map(compile_unit, names), strict=True))
    return Units(objects, (*chosen[::-1], "generic"), tuple(sorted(candidates.keys() - chosen)))


def _link(compiler: Compiler, objects: Sequence[Path], output: Path, sanitizing: Sequence[str]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        for flags in [()] if sanitizing else _LINKS:
            done = compiler.run("-shared", *sanitizing, *flags, *objects, "-lm", "-o", unfinished)
            if done.returncode == 0:
                unfinished.replace(output)
                return
        raise KernelBuildError(f"the kernels do not link with {compiler.version}:\n{done.stderr.strip()}")
    finally:
        unfinished.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the library and say what came of it; returns the process's exit status, 3 where no compiler works."""
    parser = argparse.ArgumentParser(prog="python -m kernels.build", description="Compile the fused kernels.")
    parser.add_argument("--output", type=Path, default=LIBRARY, help="where the library goes")
    parser.add_argument("--sanitize", choices=["address", "thread"], help="for tests, and slower")
    given = parser.parse_args(arguments)
    try:
        _report(given.output, given.sanitize)
    except (KernelBuildError, KernelLibraryError) as error:
        sys.stderr.write(f"kernels.build: {error}\n")
        return 3 if isinstance(error, NoCompilerError) else 1
    return 0


def _report(output: Path, sanitize: str | None) -> None:
    started = time.monotonic()
    built = build(output, sanitize=sanitize)
    say = sys.stdout.write
    say(f"built {built.path} in {time.monotonic() - started:.1f} s with {built.compiler.version}\n")
    say(f"kernels for {', '.join(built.instruction_sets)}\n")
    if built.left_out:
        say(f"left out, for this compiler does not know them: {', '.join(built.left_out)}\n")
    if sanitize is None:  # a sanitizer's runtime would have to be loaded before Python
        say(f"this machine runs {', '.join(KernelLibrary(built.path).instruction_sets)}\n")


if __name__ == "__main__":
    sys.exit(main())
