"""Compiles the fused kernels for the kind of machine that this runs on: `python -m kernels.build`.

It needs the standard library and a C++ compiler, no header of ONNX Runtime: the package's build hook runs it before
anything is installed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kernels.compiler import Compiler, KernelBuildError, NoCompilerError, find_compiler
from kernels.library import LIBRARY, KernelLibrary, KernelLibraryError
from kernels.sources import BASE, LINKS, PROBES, SOURCES, fingerprint, flags_of_sets


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


def build(
    output: Path = LIBRARY, sources: Path = SOURCES, sanitize: str | None = None, compiler: Compiler | None = None
) -> Built:
    """Compile the library; whatever lay at `output` is replaced at once, or stays where something fails.

    Parameters
    ----------
    output
        Where the library goes; its folder is made.
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
    OSError
        The library cannot be written.
    """
    compiler = compiler or find_compiler()
    output.parent.mkdir(parents=True, exist_ok=True)
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
    candidates = flags_of_sets(machine)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        knows = pool.map(lambda name: compiler.compiles(PROBES[name], candidates[name]), candidates)
        chosen = [name for name, known in zip(candidates, knows, strict=True) if known]
        units: dict[str, tuple[str, ...]] = {
            "ops": (),
            "dispatch": (
                *(f"-DQIN_WITH_{name.upper()}" for name in chosen),
                f'-DQIN_SOURCES="{fingerprint(sources)}"',
            ),
            "isa_generic": (),
            **{f"isa_{name}": candidates[name] for name in chosen},
        }
        names = [name for name in units if name not in without]

        def compile_unit(name: str) -> Path:
            unit, target = sources / f"{name}.cpp", folder / f"{name}.o"
            done = compiler.run(*BASE, *units[name], *flags, "-c", unit, "-o", target)
            if done.returncode != 0:
                raise KernelBuildError(f"{unit} does not compile with {compiler.version}:\n{done.stderr.strip()}")
            return target

        objects = dict(zip(names, pool.map(compile_unit, names), strict=True))
    return Units(objects, (*chosen[::-1], "generic"), tuple(sorted(candidates.keys() - chosen)))


def _link(compiler: Compiler, objects: Sequence[Path], output: Path, sanitizing: Sequence[str]) -> None:
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        for flags in [()] if sanitizing else LINKS:
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
    except (KernelBuildError, KernelLibraryError, OSError) as error:
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
