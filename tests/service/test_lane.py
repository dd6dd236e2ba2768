"""The lane to the model: who is scored together, and who gives up waiting."""

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from contract.bundle import read_bundle
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from scoring.views import View
from service.errors import DeadlineError
from service.lane import Lane
from service.query import Query
from service.score import Job
from tests.service.catalogue import NUM_ITEMS, make_records
from tests.service.conftest import Store


class SlowVersion:
    """A version that serves real rows once it is let go, and counts how often they were looked at."""

    def __init__(self, store: Store) -> None:
        self.scorer = Scorer(read_bundle(store.new), num_threads=1)
        self.name, self.followed_s = self.scorer.bundle.version, 0.0
        self._rows = ItemRows(self.scorer, capacity=NUM_ITEMS)
        self._rows.update(np.arange(NUM_ITEMS), make_records())
        self.rows = self
        self.go, self.num_views, self.looked = threading.Event(), 0, threading.Event()

    @contextlib.contextmanager
    def view(self) -> Iterator[View]:
        """Look at the rows, once that may go on."""
        self.num_views += 1
        self.looked.set()
        assert self.go.wait(30)
        with self._rows.view() as view:
            yield view

    def job(self, *item_ids: int) -> Job:
        """One user's candidates to be scored with this version."""
        return Job(self, [Query(1, np.array(item_ids))], [np.array([3, 5])])

    def scores(self, job: Job) -> np.ndarray:
        """What a job's first query should come to."""
        with self._rows.view() as view:
            rows = view.rows(job.queries[0].candidates)[None]
            history = view.history_rows(job.histories[:1])
            return self.scorer.score(view.tables, rows, history, view.levels(rows))[0]


@pytest.fixture
def version(store: Store) -> SlowVersion:
    return SlowVersion(store)


async def _behind_one(version: SlowVersion, most_candidates: int, jobs: list[Job]) -> None:
    """Submit jobs while one is being scored, then let all be scored."""
    lane = Lane(most_candidates=most_candidates)
    first = asyncio.create_task(lane.run(version.job(1)))
    await asyncio.to_thread(version.looked.wait, 30)
    others = [asyncio.create_task(lane.run(job)) for job in jobs]
    await asyncio.sleep(0)
    version.go.set()
    await asyncio.gather(first, *others)
    await lane.aclose()


def test_what_is_scored_together_shares_its_cost(version):
    """Each of several requests cost its part of the run, or many of them would look like more than they are."""
    jobs = [version.job(4, 5), version.job(6), version.job(7, 8, 9)]
    asyncio.run(_behind_one(version, 100, jobs))
    total_s = jobs[0].rows_s + jobs[0].score_s
    assert [job.cost_s for job in jobs] == pytest.approx([total_s / 3, total_s / 6, total_s / 2])


@pytest.mark.parametrize(("most_candidates", "num_runs"), [(0, 4), (4, 3), (100, 2)])
def test_what_waits_is_scored_together_up_to_a_bound(version, most_candidates, num_runs):
    """Three requests of two candidates behind one: alone, two together or all; each gets its own scores."""
    jobs = [version.job(4, 5), version.job(6, 7), version.job(8, 9)]
    asyncio.run(_behind_one(version, most_candidates, jobs))
    assert version.num_views == num_runs
    for job in jobs:
        np.testing.assert_allclose(job.scored[0].scores, version.scores(job), rtol=0, atol=1e-6)


def test_versions_and_explanations_are_not_mixed(version, store):
    """Requests of another version, or that ask for weights, are scored by themselves, in their order."""
    other = SlowVersion(store)
    other.go.set()
    explained = version.job(4)
    explained.explain = True
    jobs = [version.job(4, 5), other.job(4, 5), version.job(6), explained, version.job(7)]
    asyncio.run(_behind_one(version, 100, jobs))
    assert (version.num_views, other.num_views) == (5, 1)
    assert explained.scored[0].weights is not None
    assert jobs[-1].scored[0].weights is None


def test_a_deadline_ends_the_wait_and_the_work(version):
    """Whoever waits past its deadline is told at that moment, and is not scored afterwards."""

    async def main() -> None:
        lane = Lane()
        first = asyncio.create_task(lane.run(version.job(1)))
        await asyncio.to_thread(version.looked.wait, 30)
        late = version.job(4)
        with pytest.raises(DeadlineError):
            await lane.run(late, time.monotonic() + 0.05)
        version.go.set()
        await first
        await lane.run(version.job(5), time.monotonic() + 60)
        await lane.aclose()
        assert not late.scored

    asyncio.run(main())
    assert version.num_views == 2


def test_what_fails_fails_its_own_requests_only(version):
    """An error while scoring reaches those who were scored together, and the lane goes on."""

    async def main() -> None:
        lane = Lane()
        broken = version.job(4)
        broken.histories = []
        with pytest.raises(IndexError):
            await lane.run(broken)
        await lane.run(good := version.job(4))
        assert len(good.scored[0].scores) == 1
        await lane.aclose()

    version.go.set()
    asyncio.run(main())


def test_an_idle_lane_keeps_no_version(store):
    """Once a request is answered nothing in the lane holds its version, however long nobody comes after it."""

    async def main() -> None:
        version = SlowVersion(store)
        version.go.set()
        lane, gone = Lane(), weakref.ref(version)
        await lane.run(version.job(1))
        del version
        stop = time.monotonic() + 15
        while gone() is not None and time.monotonic() < stop:
            gc.collect()
            await asyncio.sleep(0.01)
        assert gone() is None
        await lane.aclose()

    asyncio.run(main())
