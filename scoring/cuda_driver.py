"""What NVIDIA's driver says of this machine's first GPU; nothing is started on it."""

import ctypes
import re
from collections.abc import Sequence

_MAJOR, _MINOR = 75, 76


def gpu_answers() -> bool:
    """Return whether there is a driver, and a GPU that it may use."""
    driver = _driver()
    if driver is None:
        return False
    count = ctypes.c_int()
    return driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def capability() -> tuple[int, int]:
    """Return the compute capability of the first GPU, such as (9, 0); (0, 0) where there is none."""
    driver = _driver()
    if driver is None:
        return 0, 0
    values = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0) != 0:
            return 0, 0
        values.append(value.value)
    return values[0], values[1]


def architecture_for(gpu: tuple[int, int], architectures: Sequence[str]) -> str | None:
    """Return which of a library's architectures a GPU runs, the newest, or None.

    Code for `sm_xy` runs on GPUs of the same major and no lower minor capability, for `sm_xya` on that one alone;
    `compute_xy`, which the driver compiles at first use, on every GPU from that one on.
    """
    compiled = [(made, name) for kind, made, name in map(_parsed, architectures) if _runs_on(gpu, kind, made)]
    return max(compiled)[1] if compiled else None


def _runs_on(gpu: tuple[int, int], kind: str, made: tuple[int, int]) -> bool:
    if kind == "sm":
        return made[0] == gpu[0] and made[1] <= gpu[1]
    return made <= gpu if kind == "compute" else made == gpu


def _parsed(architecture: str) -> tuple[str, tuple[int, int], str]:
    found = re.fullmatch(r"(sm|compute)_(\d{1,2})(\d)([af]?)", architecture)
    assert found is not None, architecture
    return "exact" if found[4] else found[1], (int(found[2]), int(found[3])), architecture


def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None
