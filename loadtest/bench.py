"""A service under load: whom it is asked for, by what, and how fast it can be."""

from collections.abc import Sequence

import httpx
import msgspec
import numpy as np

from contract.wire import Ranking
from loadtest.arrivals import Segment, arrival_times
from loadtest.driver import During, Generators, Schedule, drive
from loadtest.errors import LoadTestError
from loadtest.messages import make_messages
from loadtest.options import Options
from loadtest.outcome import Part, make_part
from loadtest.population import Population, from_files, from_ranges
from loadtest.samples import Samples
from loadtest.server import Metrics, read_metrics
from loadtest.slo import Slo, parse_slo
from loadtest.target import resolve

_NUM_LISTS = 512
"""Different candidate lists; each request takes one of them, for a user of its own."""
_CLOSED_REQUESTS = 20_000
_CLOSED_CONNECTIONS = 8
_LONGEST_PROBE_S = 5.0
_TRY_S = 30


class Bench:
    """Makes load, always the same for the same options.

    Parameters
    ----------
    options
        What was asked for.

    Raises
    ------
    LoadTestError
        The service does not rank.
    WrongCallError
        An option makes no sense.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.slo: Slo = parse_slo(options.slo, may_shed=options.scenario == "overload")
        self.target = resolve(options.url)
        self._generator = np.random.default_rng(options.seed)
        self.before: Metrics = read_metrics(options.url, options.key)
        self.population = self._populate()
        sizes = options.mix.draw(self._generator, _NUM_LISTS)
        lists = [self.population.items.draw_distinct(self._generator, size) for size in sizes.tolist()]
        headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
        self.messages = make_messages(self.target.host, headers, lists)
        self.tried = self._try(lists[: options.generators.num_processes + 1])

    def load(
        self,
        name: str,
        segments: Sequence[Segment],
        during: During | None = None,
        hot: tuple[int, float] | None = None,
    ) -> Part:
        """Send some segments after a warm-up, and return what became of them.

        Parameters
        ----------
        during
            What is done to the service meanwhile.
        hot
            A user and the share of all requests that are theirs.
        """
        duration_s, warmup_s = sum(segment.duration_s for segment in segments), self.options.warmup_s
        warming = Segment(warmup_s, segments[0].rate)
        times = arrival_times([warming, *segments], self._generator, self.options.spacing, -warmup_s)
        schedule = self._schedule(len(times), times, hot)
        samples = drive(self.target, self.messages, schedule, self.options.generators, during)
        mean_rate = sum(segment.duration_s * segment.rate for segment in segments) / duration_s
        return make_part(name, mean_rate, duration_s, samples.measured())

    def saturation(self) -> Part:
        """Return what a few connections get that ask again as soon as they are answered.

        That is as much as the service can do, not how long it takes: a closed loop waits for a slow service.
        """
        duration_s = min(_LONGEST_PROBE_S, self.options.duration_s)
        generators = Generators(
            self.options.generators.num_processes,
            min(_CLOSED_CONNECTIONS, self.options.generators.num_connections),
            self.options.generators.timeout_s,
        )
        schedule = self._schedule(_CLOSED_REQUESTS, None, None)
        samples = drive(self.target, self.messages, schedule, generators, closed_s=duration_s)
        part = make_part("saturation, closed loop", None, duration_s, samples)
        if not part.summary.answered:
            raise LoadTestError(f"{self.options.url} answered none of {len(samples)} requests")
        return part

    def cut(self, part: Part, name: str, rate: float, start_s: float, end_s: float) -> Part:
        """Return a stretch of a part as one of its own, its moments as they were."""
        samples: Samples = part.samples.between(start_s, end_s)
        return make_part(name, rate, end_s - start_s, samples)

    def _schedule(self, count: int, times: "np.ndarray | None", hot: tuple[int, float] | None) -> Schedule:
        users = self.population.users.draw(self._generator, count)
        if hot is not None:
            users = np.where(self._generator.uniform(size=count) < hot[1], hot[0], users)
        return Schedule(times, users, self._generator.integers(0, _NUM_LISTS, count))

    def _populate(self) -> Population:
        options = self.options
        if options.items is not None:
            return from_files(options.items, options.clicks, options.users, options.zipf, self._generator)
        last = self.before.num_items
        if options.item_ids is None and not last:
            raise LoadTestError(f"{options.url} has no items; load some, or say which ids to ask for")
        return from_ranges(options.users, options.item_ids or (1, last), options.zipf, self._generator)

    def _try(self, lists: Sequence["np.ndarray"]) -> Ranking:
        """Rank once by way of an ordinary client, whose errors can be read."""
        options = self.options
        body = {"user_id": int(self.population.users.ids[0]), "candidates": lists[0].tolist()}
        headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
        try:
            response = httpx.post(f"{options.url}/v1/rank", json=body, headers=headers, timeout=_TRY_S)
        except httpx.HTTPError as error:
            raise LoadTestError(f"{options.url} does not answer: {error}") from error
        if response.status_code != 200:
            raise LoadTestError(f"{options.url} does not rank: {response.status_code} {response.text[:300]}")
        ranking = msgspec.json.decode(response.content, type=Ranking)
        if 2 * len(ranking.unknown_items) > len(lists[0]):
            raise LoadTestError(
                f"{len(ranking.unknown_items)} of {len(lists[0])} candidates are unknown to {options.url}; "
                "say which items it has: --items item_info.parquet or --item-ids 1-1000"
            )
        return ranking
