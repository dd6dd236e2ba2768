"""How many cores this process may use."""

import contextlib
import math
import os
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_CGROUPS = Path("/sys/fs/cgroup")


def num_physical_cores() -> int:
    """Return the number of cores that the process may keep busy, those of one core's hardware threads counted once.

    A container may be allowed less than all the cores that it sees: more threads than that would only wait for each
    other.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = str(cpu)
        with contextlib.suppress(OSError):
            siblings = Path(_TOPOLOGY.format(cpu)).read_text()
        cores.add(siblings)
    return max(1, math.ceil(min(len(cores), cpu_quota(_CGROUPS))))


def cpu_quota(cgroups: Path) -> float:
    """Return how many processors' time a control group of Linux allows, of either version; infinity without a limit.

    Parameters
    ----------
    cgroups
        Where control groups are mounted; in a container its own.
    """
    with contextlib.suppress(OSError, ValueError):
        quota, period = (cgroups / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        allowed = int((cgroups / "cpu/cpu.cfs_quota_us").read_text())
        return allowed / int((cgroups / "cpu/cpu.cfs_period_us").read_text()) if allowed > 0 else math.inf
    return math.inf
