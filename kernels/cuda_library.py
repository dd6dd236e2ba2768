"""The compiled CUDA kernels as Python sees them: where the library lies, and its C functions.

Loading it needs no GPU and no CUDA library: the runtime is inside it, and asks for the driver when a kernel is made.
"""

import ctypes
from pathlib import Path

from kernels.cuda_sources import fingerprint
from kernels.library import DOMAIN_VERSION, KernelLibraryError, is_whole

CUDA_LIBRARY = Path(__file__).resolve().parent / "lib" / "libqin_cuda.so"


def find_cuda_library() -> Path | None:
    """Return the library that `kernels.build_cuda` made, or None where none was made."""
    return CUDA_LIBRARY if CUDA_LIBRARY.is_file() else None


class CudaKernelLibrary:
    """The C functions of a CUDA kernel library.

    Parameters
    ----------
    path
        As `find_cuda_library` gives it.

    Raises
    ------
    KernelLibraryError
        It is damaged, made for other machines, or its operations are of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not is_whole(path):
                raise KernelLibraryError(f"{path} cannot be loaded: its end is missing")
            library = ctypes.CDLL(str(path))
            library.qin_architectures.restype = ctypes.c_char_p
            library.qin_kernels_created.argtypes = [ctypes.c_char_p]
            library.qin_kernels_created.restype = ctypes.c_uint64
            library.qin_sources.restype = ctypes.c_char_p
            self._library = library
            version = self.domain_version
        except (OSError, AttributeError) as error:
            raise KernelLibraryError(f"{path} cannot be loaded: {error}") from error
        if version != DOMAIN_VERSION:
            raise KernelLibraryError(f"{path} has version {version} of the operations, not {DOMAIN_VERSION}")

    @property
    def domain_version(self) -> int:
        """The version of the domain `qin` that the library registers."""
        return int(self._library.qin_domain_version())

    @property
    def sources(self) -> str:
        """The `fingerprint` of what the library was compiled from."""
        return str(self._library.qin_sources().decode())

    @property
    def is_stale(self) -> bool:
        """Whether sources lie beside the library, where `kernels.build_cuda` puts it, and are not what made it."""
        beside = self.path.resolve().parent.parent / "cuda"
        return beside.is_dir() and fingerprint(beside) != self.sources

    @property
    def architectures(self) -> tuple[str, ...]:
        """What the library holds code for, oldest first: `sm_75` and so on; `compute_120` is code for newer ones."""
        return tuple(self._library.qin_architectures().decode().split(","))

    def created(self, op: str) -> int:
        """Return how many kernels of an operation, such as `QuadraticTower`, this process has created so far."""
        return int(self._library.qin_kernels_created(op.encode()))
