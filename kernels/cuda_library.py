"""The compiled CUDA kernels as Python sees them: where the library lies, and its C functions.

Loading it needs no GPU and no CUDA library: the runtime is inside it, and asks for the driver when a kernel is made.
"""

import ctypes
from pathlib import Path

from kernels.cuda_sources import fingerprint
from kernels.library import OperationLibrary

CUDA_LIBRARY = Path(__file__).resolve().parent / "lib" / "libqin_cuda.so"


def find_cuda_library() -> Path | None:
    """Return the library that `kernels.build_cuda` made, or None where none was made."""
    return CUDA_LIBRARY if CUDA_LIBRARY.is_file() else None


class CudaKernelLibrary(OperationLibrary):
    """The C functions of a CUDA kernel library, as `find_cuda_library` gives it; see `OperationLibrary`."""

    def _declare(self, library: ctypes.CDLL) -> None:
        library.qin_architectures.restype = ctypes.c_char_p
        super()._declare(library)

    @property
    def is_stale(self) -> bool:
        """Whether sources lie beside the library, where `kernels.build_cuda` puts it, and are not what made it."""
        beside = self.path.resolve().parent.parent / "cuda"
        return beside.is_dir() and fingerprint(beside) != self.sources

    @property
    def architectures(self) -> tuple[str, ...]:
        """What the library holds code for, oldest first: `sm_75` and so on; `compute_120` is code for newer ones."""
        return tuple(self._library.qin_architectures().decode().split(","))
