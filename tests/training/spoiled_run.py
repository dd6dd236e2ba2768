"""Trains as the command line does, but a process dies in its second epoch, the first time that it is started.

    python -m tests.training.spoiled_run RANK WHERE DATA OUT [SETTING ...]

WHERE is a function that `training.run` calls; the process of that rank is killed as it calls it for the second time.
"""

import os
import signal
import sys
from pathlib import Path

import training.run
import training.trainer
from tests.training.clicks import small_recipe


def main() -> None:
    """Train, or die."""
    rank, where, data, out, *settings = sys.argv[1:]
    if os.environ["RANK"] == rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        die_at_second_call(where)
    training.trainer.train(Path(data), Path(out), small_recipe(*settings))


def die_at_second_call(where: str) -> None:
    """Let the second call of a function be the end of this process, as if the machine had failed."""
    original, calls = getattr(training.run, where), []

    def spoiled(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(training.run, where, spoiled)


if __name__ == "__main__":
    main()
