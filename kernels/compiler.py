"""A C++ compiler: which one this machine has, and whether it does what the kernels need of it.

KernelBuildError        a source does not compile or link; the message holds the compiler's own words
└── NoCompilerError     no compiler works
"""

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kernels.sources import BASE, LINKS

_PROBE = "#include <atomic>\n#include <cmath>\n#include <cstring>\n#include <new>\n"

_log = logging.getLogger(__name__)


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
            return self._object(source, flags, Path(folder)) is not None

    def links(self) -> bool:
        """Whether it makes shared libraries, of sources that include the standard library's headers."""
        with tempfile.TemporaryDirectory() as folder:
            made = self._object(_PROBE, (), Path(folder))
            library = Path(folder, "probe.so")
            return made is not None and any(self._makes(library, "-shared", *flags, made, "-lm") for flags in LINKS)

    def _object(self, source: str, flags: Sequence[str], folder: Path) -> Path | None:
        path, made = folder / "probe.cpp", folder / "probe.o"
        path.write_text(source)
        return made if self._makes(made, *BASE, *flags, "-c", path) else None

    def _makes(self, output: Path, *arguments: str | Path) -> bool:
        try:
            done = self.run(*arguments, "-o", output)
        except OSError:  # a file that is no program
            return False
        return done.returncode == 0 and output.is_file()


def find_compiler(environment: Mapping[str, str] | None = None) -> Compiler:
    """Return the first that works of $CXX, c++, g++, clang++ and the compiler in the Python package `ziglang`.

    A $CXX that does not work is warned about.

    Raises
    ------
    NoCompilerError
        None does.
    """
    environment = os.environ if environment is None else environment
    path = environment.get("PATH")
    if wanted := environment.get("CXX", "").strip():
        if compiler := _that_works(_words(wanted), path):
            return compiler
        _log.warning("$CXX makes no shared library that includes C++'s headers, others are tried: CXX=%s", wanted)
    commands = [["c++"], ["g++"], ["clang++"]]
    if find_spec("ziglang") is not None:
        commands.append([sys.executable, "-m", "ziglang", "c++"])
    for command in commands:
        if compiler := _that_works(command, path):
            return compiler
    raise NoCompilerError("no C++ compiler works: tried $CXX, c++, g++, clang++ and the Python package ziglang")


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quotation that does not end
        return []


def _that_works(command: Sequence[str], path: str | None) -> Compiler | None:
    program = shutil.which(command[0], path=path) if command else None
    if program is None:
        return None
    compiler = Compiler((program, *command[1:]))
    if not compiler.links():
        return None
    version = compiler.run("--version").stdout.partition("\n")[0].strip()
    return Compiler(compiler.command, version or "unknown")
