"""A service that keeps the stages of every request it answered: `python -m tests.bench.watched FILE SETTINGS`.

SETTINGS are JSON. At SIGTERM the file gets an array with a row for each request, in their order, and a column for
each stage, in seconds.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import uvloop

from service import logs
from service.observers import Served
from service.replica import Replica, open_replica
from service.server import SWITCH_S, bind, run, say
from service.settings import read_settings
from service.stages import Stages

STAGES = tuple(field.name for field in dataclasses.fields(Stages))


async def _serve(file: Path, settings: dict[str, object]) -> None:
    kept: list[tuple[float, ...]] = []
    with bind("127.0.0.1", 0) as listener:
        await run(_watched(kept, settings), listener, say)
    np.save(file, np.array(kept))


@contextlib.asynccontextmanager
async def _watched(kept: list[tuple[float, ...]], settings: dict[str, object]) -> AsyncIterator[Replica]:
    def keep(served: Served) -> None:
        kept.append(dataclasses.astuple(served.call.stages))

    async with open_replica(read_settings(port=0, **settings)) as replica:
        replica.observers.add(keep)
        yield replica


if __name__ == "__main__":
    logs.configure()
    sys.setswitchinterval(SWITCH_S)
    uvloop.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
