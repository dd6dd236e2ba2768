"""How many cores this process may use."""

import contextlib
import os
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def num_physical_cores() -> int:
    """Return the number of cores that the process may run on, those of one core's hardware threads counted once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = str(cpu)
        with contextlib.suppress(OSError):
            siblings = Path(_TOPOLOGY.format(cpu)).read_text()
        cores.add(siblings)
    return len(cores)
