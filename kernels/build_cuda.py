"""Compiles the CUDA kernels: `python -m kernels.build_cuda`.

It needs NVIDIA's compiler and a C++ compiler, but no GPU, and no header or library of ONNX Runtime. The compiler is
that of $CUDA_HOME, else the one on the path, else that of the Python packages in the extra `cuda-build`.
"""

import argparse
import os
import re
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

from kernels.compiler import KernelBuildError, NoCompilerError
from kernels.cuda_library import CUDA_LIBRARY
from kernels.cuda_sources import (
    ARCHITECTURES,
    CUDA_SOURCES,
    FLAGS,
    LINK_FLAGS,
    UNITS,
    architecture_names,
    code_flags,
    fingerprint,
)


@dataclass(frozen=True, slots=True)
class Nvcc:
    """NVIDIA's compiler, what it calls itself, and the architectures that it knows, oldest first."""

    program: Path
    version: str
    architectures: tuple[str, ...]

    def run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run the compiler and return how it ended and what it said."""
        words = [str(argument) for argument in arguments]
        # Where it comes as Python packages, its libraries lie in a folder that it does not look into by itself.
        libraries = self.program.resolve().parent.parent / "lib"
        if libraries.is_dir():
            words.append(f"-L{libraries}")
        return subprocess.run(  # noqa: S603
            [str(self.program), *words], capture_output=True, text=True, check=False, errors="replace"
        )


@dataclass(frozen=True, slots=True)
class BuiltCuda:
    """A library that was built."""

    path: Path
    compiler: Nvcc
    architectures: tuple[str, ...]
    left_out: tuple[str, ...]  # architectures that the compiler does not know, or no more


def find_nvcc(environment: Mapping[str, str] | None = None) -> Nvcc:
    """Return the first compiler that works: in $CUDA_HOME, on the path, in Python's packages.

    Raises
    ------
    NoCompilerError
        None does; the message says where it was looked for.
    """
    environment = os.environ if environment is None else environment
    for program in _programs(environment):
        if nvcc := _that_works(program):
            return nvcc
    raise NoCompilerError(
        "no nvcc works: looked in $CUDA_HOME/bin, on the path, and for the Python packages that "
        "pip install 'qin-ranker[cuda-build]' brings"
    )


def _programs(environment: Mapping[str, str]) -> list[Path]:
    found = []
    if home := environment.get("CUDA_HOME", "").strip():
        found.append(Path(home, "bin", "nvcc"))
    if on_path := shutil.which("nvcc", path=environment.get("PATH")):
        found.append(Path(on_path))
    packages = find_spec("nvidia")
    for folder in (packages.submodule_search_locations or ()) if packages else ():
        found += sorted(Path(folder).glob("cu*/bin/nvcc"), reverse=True)
    return found


def _that_works(program: Path) -> Nvcc | None:
    try:
        said = [Nvcc(program, "", ()).run(question).stdout for question in ("--version", "--list-gpu-code")]
    except OSError:
        return None
    release = re.search(r"release ([\d.]+)", said[0])
    known = tuple(re.findall(r"sm_(\d+)\b", said[1]))
    return Nvcc(program, f"nvcc {release[1]}", known) if release and known else None


def build_cuda(
    output: Path = CUDA_LIBRARY,
    sources: Path = CUDA_SOURCES,
    architectures: Sequence[str] = ARCHITECTURES,
    compiler: Nvcc | None = None,
) -> BuiltCuda:
    """Compile the library; whatever lay at `output` is replaced at once, or stays where something fails.

    Parameters
    ----------
    output
        Where the library goes; its folder is made.
    sources
        The folder of the `.cu` files; `cpu` lies beside it.
    architectures
        Compute capabilities, oldest first; those that the compiler does not know are left out.
    compiler
        None takes the first that works.

    Raises
    ------
    KernelBuildError
        Something does not compile, or there is no compiler.
    OSError
        The library cannot be written.
    """
    compiler = compiler or find_nvcc()
    chosen = [name for name in architectures if name in compiler.architectures]
    if not chosen:
        raise KernelBuildError(f"{compiler.version} knows none of sm_{', sm_'.join(architectures)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        objects = _compile(Path(folder), sources, compiler, chosen)
        _link(compiler, objects, chosen, output)
    left_out = tuple(f"sm_{name}" for name in architectures if name not in chosen)
    return BuiltCuda(output, compiler, architecture_names(chosen), left_out)


def _compile(folder: Path, sources: Path, compiler: Nvcc, architectures: Sequence[str]) -> list[Path]:
    defines = (
        f'-DQIN_ARCHITECTURES="{",".join(architecture_names(architectures))}"',
        f'-DQIN_SOURCES="{fingerprint(sources)}"',
    )

    def compile_unit(name: str) -> Path:
        unit, target = sources / f"{name}.cu", folder / f"{name}.o"
        done = compiler.run(*FLAGS, *code_flags(architectures), *defines, "-c", unit, "-o", target)
        if done.returncode != 0:
            raise KernelBuildError(f"{unit} does not compile with {compiler.version}:\n{_said(done)}")
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_unit, UNITS))


def _link(compiler: Nvcc, objects: Sequence[Path], architectures: Sequence[str], output: Path) -> None:
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        done = compiler.run(
            *("-shared", *LINK_FLAGS),
            *code_flags(architectures)[:1],
            *objects,
            *("-o", unfinished),
        )
        if done.returncode != 0:
            raise KernelBuildError(f"the CUDA kernels do not link with {compiler.version}:\n{_said(done)}")
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return (done.stderr + done.stdout).strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the library and say what came of it; returns the process's exit status, 3 where no compiler works."""
    parser = argparse.ArgumentParser(prog="python -m kernels.build_cuda", description="Compile the CUDA kernels.")
    parser.add_argument("--output", type=Path, default=CUDA_LIBRARY, help="where the library goes")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, help="compute capabilities, such as 90")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        built = build_cuda(given.output, architectures=given.architectures)
    except (KernelBuildError, OSError) as error:
        sys.stderr.write(f"kernels.build_cuda: {error}\n")
        return 3 if isinstance(error, NoCompilerError) else 1
    say = sys.stdout.write
    say(f"built {built.path} in {time.monotonic() - started:.1f} s with {built.compiler.version}\n")
    say(f"kernels for {', '.join(built.architectures)}\n")
    if built.left_out:
        say(f"left out, for this compiler does not know them: {', '.join(built.left_out)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
