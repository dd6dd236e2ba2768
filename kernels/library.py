"""The compiled kernels as Python sees them: where the library lies, and its C functions."""

import ctypes
import struct
import sys
from pathlib import Path

from kernels.sources import fingerprint

DOMAIN_VERSION = 2
"""The version of the domain `qin` whose operations these kernels are."""

LIBRARY = Path(__file__).resolve().parent / "lib" / f"libqin_cpu.{'dylib' if sys.platform == 'darwin' else 'so'}"


class KernelLibraryError(Exception):
    """The library is there, but is none that can be used."""


def find_library() -> Path | None:
    """Return the library that `kernels.build` made, or None where none was made."""
    return LIBRARY if LIBRARY.is_file() else None


class OperationLibrary:
    """What every kernel library has: its version, what it was made from, and a count of its kernels.

    Parameters
    ----------
    path
        Where it lies.

    Raises
    ------
    KernelLibraryError
        It is damaged, made for other machines, or its operations are of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not _is_whole(path):
                raise KernelLibraryError(f"{path} cannot be loaded: its end is missing")
            self._library = ctypes.CDLL(str(path))
            self._declare(self._library)
            version = self.domain_version
        except (OSError, AttributeError) as error:
            raise KernelLibraryError(f"{path} cannot be loaded: {error}") from error
        if version != DOMAIN_VERSION:
            raise KernelLibraryError(f"{path} has version {version} of the operations, not {DOMAIN_VERSION}")

    def _declare(self, library: ctypes.CDLL) -> None:
        """Say what the C functions take and return; raises AttributeError where one is missing."""
        library.qin_kernels_created.argtypes = [ctypes.c_char_p]
        library.qin_kernels_created.restype = ctypes.c_uint64
        library.qin_sources.restype = ctypes.c_char_p

    @property
    def domain_version(self) -> int:
        """The version of the domain `qin` that the library registers."""
        return int(self._library.qin_domain_version())

    @property
    def sources(self) -> str:
        """The fingerprint of what the library was compiled from."""
        return str(self._library.qin_sources().decode())

    def created(self, op: str) -> int:
        """Return how many kernels of an operation, such as `QuadraticTower`, this process has created so far."""
        return int(self._library.qin_kernels_created(op.encode()))


class KernelLibrary(OperationLibrary):
    """The C functions of a CPU's kernel library, as `find_library` gives it; see `OperationLibrary`."""

    def _declare(self, library: ctypes.CDLL) -> None:
        library.qin_instruction_sets.restype = ctypes.c_char_p
        library.qin_instruction_set.restype = ctypes.c_char_p
        library.qin_use_instruction_set.argtypes = [ctypes.c_char_p]
        super()._declare(library)

    @property
    def is_stale(self) -> bool:
        """Whether sources lie beside the library, where `kernels.build` puts it, and are not what made it."""
        beside = self.path.resolve().parent.parent / "cpu"
        return beside.is_dir() and fingerprint(beside) != self.sources

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """The instruction sets that this machine can run, best first."""
        return tuple(self._library.qin_instruction_sets().decode().split(","))

    @property
    def instruction_set(self) -> str:
        """The instruction set of kernels that are created from now on."""
        return str(self._library.qin_instruction_set().decode())

    def use(self, name: str) -> None:
        """Choose the instruction set of kernels that are created from now on: one of `instruction_sets`, or `auto`.

        Raises
        ------
        ValueError
            This machine cannot run it, or the library lacks it.
        """
        if self._library.qin_use_instruction_set(name.encode()) != 0:
            raise ValueError(f"no instruction set {name!r} here: auto, {', '.join(self.instruction_sets)}")


def _is_whole(path: Path) -> bool:
    """Whether an ELF file reaches as far as its header says: loading one that was cut off would kill the process."""
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or not header.startswith(b"\x7fELF"):
        return True
    (sections,), (size, count) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<HH", header, 58)
    return bool(path.stat().st_size >= sections + size * count)
