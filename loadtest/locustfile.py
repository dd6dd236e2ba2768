"""Users of Locust who rank, popular ones more often.

    locust -f loadtest/locustfile.py --headless -H http://127.0.0.1:8000 -u 20 -r 10 -t 30s --csv out --html out.html

Locust's users wait for their answer before they ask again: a service that stalls is asked less, and its percentiles
look better than what people would have met. For percentiles take `qin loadtest`; for users who do several things, or
for load from many machines (`--master`, `--worker`), take this.
"""

from typing import Any

import numpy as np
from locust import FastHttpUser, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.messages import request_body
from loadtest.mix import parse_mix
from loadtest.options import parse_range
from loadtest.population import Population, from_ranges

_NUM_LISTS = 256


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--user-ids", default="1-10000", env_var="QIN_USER_IDS", help="First and last id.")
    parser.add_argument("--item-ids", default="1-1000", env_var="QIN_ITEM_IDS", help="First and last id.")
    parser.add_argument("--candidates", default="100", env_var="QIN_CANDIDATES", help="As of `qin loadtest`.")
    parser.add_argument("--zipf", type=float, default=1.0, env_var="QIN_ZIPF", help="Exponent of popularity.")
    parser.add_argument("--seed", type=int, default=1, help="The same users and candidates again.")
    parser.add_argument("--key", default="", env_var="QIN_ADMIN_KEY", is_secret=True, help="Key of the service.")
    parser.add_argument("--each-per-s", type=float, default=10, help="At most so many requests a second and user.")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_others: Any) -> None:
    """Make what the users share: whom they ask for, and which candidate lists."""
    options = environment.parsed_options
    assert options is not None
    generator = np.random.default_rng(options.seed)
    population = from_ranges(parse_range(options.user_ids), parse_range(options.item_ids), options.zipf, generator)
    sizes = parse_mix(options.candidates).draw(generator, _NUM_LISTS).tolist()
    lists = [population.items.draw_distinct(generator, size) for size in sizes]
    environment.qin_load = _Load(population, lists, generator)  # type: ignore[attr-defined]


class _Load:
    """Rank requests without end; one for all users of a process."""

    def __init__(self, population: Population, lists: list[Any], generator: np.random.Generator) -> None:
        self._population, self._generator = population, generator
        self._bodies = [request_body(candidates) for candidates in lists]

    def body(self) -> bytes:
        """Return the next request's body."""
        opening, tail = self._bodies[self._generator.integers(len(self._bodies))]
        return opening + b"%d" % self._population.users.draw(self._generator, 1)[0] + tail


class Ranking(FastHttpUser):
    """Asks for one ranking after the other."""

    def wait_time(self) -> float:
        """Return how long to wait so that this user keeps to the rate that was asked for."""
        return float(constant_throughput(self.environment.parsed_options.each_per_s)(self))

    def on_start(self) -> None:
        """Take the key, if there is one."""
        key = self.environment.parsed_options.key
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    @task
    def rank(self) -> None:
        """Rank once; an answer that is not 200 is a failure."""
        body = self.environment.qin_load.body()
        self.client.post("/v1/rank", data=body, headers=self._headers)
