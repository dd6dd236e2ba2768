"""To do something for ever, whatever happens to Redis meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from service.timed import REDIS_ERRORS

_LONGEST_PAUSE_S = 0.5

_log = structlog.get_logger(__name__)


async def persistently(step: Callable[[], Awaitable[None]], what: str) -> None:
    """Repeat a step for ever, after a growing pause where it fails."""
    pause_s = 0.0
    while True:
        try:
            await step()
            if pause_s:
                _log.info(f"{what} followed again")
            pause_s = 0.0
            continue
        except REDIS_ERRORS as error:
            if not pause_s:
                _log.warning(f"{what} cannot be followed, trying again", error=repr(error))
        except Exception:
            _log.exception(f"{what} is not readable, trying again")
        pause_s = min(max(2 * pause_s, 0.05), _LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)
