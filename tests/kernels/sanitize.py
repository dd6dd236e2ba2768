"""Runs the kernels where mistakes in memory and among threads show: `python -m tests.kernels.sanitize [check ...]`.

Each check builds `standalone.cpp` with the kernels' sources, all but the one that ONNX Runtime calls, and runs it:

    address     AddressSanitizer; also the tests of operations, on a library that is built with it
    undefined   UndefinedBehaviorSanitizer
    thread      ThreadSanitizer
    valgrind    memcheck, with the instruction sets that valgrind knows
    aarch64     compiled for another kind of machine, by each compiler that can, and run by qemu
    plain       without any of them

A check that this machine lacks the tools for is skipped, and says which. The exit status is 1 where one fails.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kernels.build import build, compile_units
from kernels.compiler import Compiler, KernelBuildError, find_compiler
from kernels.sources import SOURCES

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("standalone.cpp")
LIBRARY_VARIABLE = "QIN_TEST_KERNEL_LIBRARY"
"""Names the library that `tests/kernels` tests in place of the built one."""

_FLAGS = ("-std=c++17", "-O3", "-Wall", "-Wextra", "-pthread")
_PROBE = "#include <thread>\nint main() { std::thread([] {}).join(); }\n"
_ADDRESS = {"ASAN_OPTIONS": "detect_stack_use_after_return=1"}
_THREAD = {"TSAN_OPTIONS": "halt_on_error=1"}


class Skipped(Exception):  # noqa: N818  (nothing failed)
    """A check needs what is not here."""


class Failed(Exception):  # noqa: N818  (as a check ends, not as a program does)
    """A check found something; the message is what its tool said."""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is run, where `kernels/cpu` lies, and how long a program may take before it counts as hanging."""

    quick: bool = True
    sources: Path = SOURCES
    timeout_s: float = 1800


def build_program(
    folder: Path, compiler: Compiler, sources: Path, flags: Sequence[str] = (), machine: str | None = None
) -> Path:
    """Return `standalone`, built in a folder.

    Raises
    ------
    KernelBuildError
        It does not compile or link.
    """
    units = compile_units(folder, sources, compiler, flags, machine, without=["ops"])
    program = folder / "standalone"
    objects = units.objects.values()
    done = compiler.run(*_FLAGS, *flags, f"-I{sources}", PROGRAM, *objects, "-lm", "-o", program)
    if done.returncode != 0:
        raise KernelBuildError(f"{PROGRAM} does not build with {compiler.version}:\n{done.stderr.strip()}")
    return program


def check_plain(options: Options) -> str:
    """Run the program as it is."""
    with tempfile.TemporaryDirectory() as folder:
        return _run([build_program(Path(folder), find_compiler(), options.sources)], options)


def check_address(options: Options) -> str:
    """Run the program and the tests of operations with AddressSanitizer."""
    return f"{_sanitized('address', options, _ADDRESS)}\n{_tests_with_address_sanitizer(options)}"


def check_undefined(options: Options) -> str:
    """Run the program with UndefinedBehaviorSanitizer."""
    return _sanitized("undefined", options, {})


def check_thread(options: Options) -> str:
    """Run the program with ThreadSanitizer."""
    return _sanitized("thread", options, _THREAD)


def check_valgrind(options: Options) -> str:
    """Run the program with memcheck, which knows no AVX-512."""
    valgrind = _tool("valgrind")
    with tempfile.TemporaryDirectory() as folder:
        program = build_program(Path(folder), find_compiler(), options.sources, ["-g"])
        command = [valgrind, "--quiet", "--error-exitcode=1", "--leak-check=full", "--fair-sched=yes", program]
        return _run([*command, "--only", "avx2,generic"], options)


def check_aarch64(options: Options) -> str:
    """Run the program as ARM's processors would, built by each cross compiler that is here."""
    emulator = _tool("qemu-aarch64-static", "qemu-aarch64")
    cross = [("aarch64-linux-gnu-g++", ["aarch64-linux-gnu-g++"])]
    if find_spec("ziglang") is not None:
        cross.append(("zig", [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl"]))
    elif program := shutil.which("zig"):
        cross.append(("zig", [program, "c++", "-target", "aarch64-linux-musl"]))
    compilers = [Compiler(tuple(command), name) for name, command in cross if shutil.which(command[0])]
    if not compilers:
        raise Skipped("neither aarch64-linux-gnu-g++ nor zig is here")
    said = []
    for compiler in compilers:
        with tempfile.TemporaryDirectory() as folder:
            program = build_program(Path(folder), compiler, options.sources, ["-static"], "aarch64")
            said.append(f"{compiler.version}\n{_run([emulator, '-cpu', 'max', program], options)}")
    return "\n".join(said)


CHECKS: dict[str, Callable[[Options], str]] = {
    "address": check_address,
    "undefined": check_undefined,
    "thread": check_thread,
    "valgrind": check_valgrind,
    "aarch64": check_aarch64,
    "plain": check_plain,
}


def _tool(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    raise Skipped(f"{' or '.join(names)} is not here")


def _run(command: Sequence[str | Path], options: Options, environment: dict[str, str] | None = None) -> str:
    words = [str(word) for word in command] + ["--quick"] * options.quick
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            errors="replace",
            env=os.environ | (environment or {}),
            timeout=options.timeout_s,
        )
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{' '.join(words)} did not end within {options.timeout_s:g} s") from late
    if done.returncode != 0:
        raise Failed(f"{' '.join(words)} ended with status {done.returncode}\n{done.stdout}{done.stderr}".strip())
    return done.stdout.strip()


def _sanitized(sanitizer: str, options: Options, environment: dict[str, str]) -> str:
    compiler = find_compiler()
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g", "-O1", "-fno-omit-frame-pointer"]
    with tempfile.TemporaryDirectory() as folder:
        prefix = _prefix_that_runs(Path(folder), compiler, flags)
        program = build_program(Path(folder), compiler, options.sources, flags)
        return _run([*prefix, program], options, environment)


def _prefix_that_runs(folder: Path, compiler: Compiler, flags: Sequence[str]) -> list[str]:
    """Return the words before a sanitized program: with many random bits in addresses, none would start."""
    source, program = folder / "probe.cpp", folder / "probe"
    source.write_text(_PROBE)
    if compiler.run(*_FLAGS, *flags, source, "-o", program).returncode != 0:
        raise Skipped(f"{compiler.version} does not link with {flags[0]}")
    fixed = shutil.which("setarch")
    for prefix in ([], [fixed, platform.machine(), "-R"]) if fixed else ([],):
        if subprocess.run([*prefix, program], capture_output=True, check=False).returncode == 0:
            return prefix
    raise Skipped(f"no program built with {flags[0]} starts here")


def _tests_with_address_sanitizer(options: Options) -> str:
    """Run the tests of operations; the sanitizer's runtime has to be loaded before Python."""
    compiler = find_compiler()
    runtimes = [
        compiler.run(f"-print-file-name={name}").stdout.strip()
        for name in ("libasan.so", f"libclang_rt.asan-{platform.machine()}.so", "libclang_rt.asan.so", "libstdc++.so")
    ]
    present = [str(Path(runtime).resolve()) for runtime in runtimes if Path(runtime).is_absolute()]
    if not present or "asan" not in present[0]:
        return f"tests of operations: skipped, {compiler.version} has no AddressSanitizer to load before Python"
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder, "libqin_cpu.so"), options.sources, "address", compiler).path
        environment = {
            "LD_PRELOAD": " ".join(present),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps memory to its end
            LIBRARY_VARIABLE: str(library),
        }
        tests = [f"tests/kernels/test_{operation}.py" for operation in ("attention", "tower")]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT, *tests]
        said = _run(command, Options(quick=False, timeout_s=options.timeout_s), environment)
    return f"tests of operations: {said.splitlines()[-1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks that are named and say how each ended; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.sanitize", description="Check the fused kernels.")
    parser.add_argument(
        "checks", nargs="*", choices=[[], *CHECKS], help="address, undefined and thread if none given"
    )
    parser.add_argument("--full", action="store_true", help="all shapes, which takes minutes, and not one in seven")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="another folder of kernels")
    given = parser.parse_args(arguments)
    options = Options(not given.full, given.sources.resolve(), timeout_s=36_000 if given.full else 1800)
    passed = [_report(name, options) for name in given.checks or ("address", "undefined", "thread")]
    return 0 if all(passed) else 1


def _report(name: str, options: Options) -> bool:
    started = time.monotonic()
    try:
        said, ended = CHECKS[name](options), "passed"
    except Skipped as reason:
        said, ended = str(reason), "skipped"
    except (Failed, KernelBuildError) as reason:
        said, ended = str(reason), "FAILED"
    lines = "".join(f"    {line}\n" for line in said.splitlines())
    sys.stdout.write(f"{name}: {ended} in {time.monotonic() - started:.0f} s\n{lines}")
    sys.stdout.flush()
    return ended != "FAILED"


if __name__ == "__main__":
    sys.exit(main())
