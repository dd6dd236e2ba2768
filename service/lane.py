"""The lane to the model: one thread that scores what waits, first come first served."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue

import structlog

from scoring.errors import DeviceError
from service.errors import DeadlineError, UnavailableError
from service.score import Job, score
from service.serving import HotItems

_log = structlog.get_logger(__name__)

_Asked = tuple[Job, "asyncio.Future[None]"]


class Lane:
    """Scores jobs in a thread of its own, made and used in one event loop.

    Whatever waits for the same version when the thread comes free may be scored together: nobody ever waits for
    others to come.

    Parameters
    ----------
    hot_set
        Gets items that a mirror with a capacity does not hold; such jobs are scored alone.
    most_candidates
        How many candidates of several jobs are scored together; 0 scores each alone.
    """

    def __init__(self, hot_set: HotItems | None = None, most_candidates: int = 0) -> None:
        self._hot_set = hot_set
        self._most_candidates = 0 if hot_set is not None else most_candidates
        self._waiting: SimpleQueue[_Asked | None] = SimpleQueue()
        self._next: _Asked | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="score")
        self._thread.start()

    async def run(self, job: Job, deadline_s: float = math.inf) -> float:
        """Score a job; return the seconds for which it waited.

        Raises
        ------
        DeadlineError
            The moment `deadline_s`, by the monotonic clock, came first.
        """
        asked, started = self._loop.create_future(), time.perf_counter()
        self._waiting.put((job, asked))
        if deadline_s < math.inf:
            await self._or_expire(asked, deadline_s)
        else:
            await asked
        return time.perf_counter() - started - job.rows_s - job.score_s

    async def aclose(self) -> None:
        """End the thread once nothing waits."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _or_expire(self, asked: "asyncio.Future[None]", deadline_s: float) -> None:
        def expire() -> None:
            if not asked.done():
                asked.set_exception(DeadlineError("the deadline passed before the candidates were ranked"))

        timer = self._loop.call_later(max(0.0, deadline_s - time.monotonic()), expire)
        try:
            await asked
        finally:
            timer.cancel()

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Score what comes next; nothing of it is kept afterwards, or its version would outlive its last request."""
        first, self._next = self._next or self._waiting.get(), None
        if first is None:
            return False
        # Who gave up waiting, for the deadline passed, is not scored.
        wanted = [(job, asked) for job, asked in self._with_others(first) if not asked.done()]
        if wanted:
            self._score(wanted)
        return True

    def _with_others(self, first: _Asked) -> list[_Asked]:
        """Return a job with those that wait behind it and go into the same run."""
        together, num_candidates = [first], first[0].num_candidates
        while num_candidates < self._most_candidates:
            try:
                following = self._waiting.get_nowait()
            except Empty:
                break
            if following is None:
                self._waiting.put(None)
                break
            num_candidates += following[0].num_candidates
            if num_candidates > self._most_candidates or not _alike(first[0], following[0]):
                self._next = following
                break
            together.append(following)
        return together

    def _score(self, together: Sequence[_Asked]) -> None:
        failure: Exception | None = None
        try:
            score([job for job, _ in together], self._hot_set)
        except DeviceError as error:
            _log.critical("the device that scores failed", error=str(error))
            failure = UnavailableError("the device that scores failed; this replica is about to end")
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits any more
            self._loop.call_soon_threadsafe(_tell, [asked for _, asked in together], failure)


def _alike(one: Job, other: Job) -> bool:
    return one.version is other.version and not one.explain and not other.explain


def _tell(together: "Sequence[asyncio.Future[None]]", failure: Exception | None) -> None:
    for asked in together:
        if asked.done():
            continue
        if failure is None:
            asked.set_result(None)
        else:
            asked.set_exception(failure)
