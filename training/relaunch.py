"""Whether torchrun has started a run again because one of its processes died."""

from pathlib import Path

from training.ranks import Ranks, launch_name, num_restarts
from training.resume import STATE
from training.tensorfile import write_whole

_LAUNCH = STATE.with_name("launch")


def is_relaunch(out: Path, ranks: Ranks) -> bool:
    """Return whether this very launch began the run in `out` before.

    torchrun starts the same command again, which does not say `--resume`. A run that another command left in `out`
    is still refused.
    """
    if ranks.size == 1:
        return False
    path, name = out / _LAUNCH, launch_name().encode()
    again = ranks.is_first and num_restarts() > 0 and path.exists() and path.read_bytes() == name
    return ranks.agreed(again)


def note_launch(out: Path, ranks: Ranks) -> None:
    """Leave what `is_relaunch` will know this launch by."""
    if ranks.size > 1 and ranks.is_first:
        write_whole(out / _LAUNCH, launch_name().encode())
