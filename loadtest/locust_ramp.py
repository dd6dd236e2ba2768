"""A ramp for Locust: ever more users, in ten steps, up to `--users` within `--run-time`.

locust -f loadtest/locustfile.py,loadtest/locust_ramp.py --headless -H http://127.0.0.1:8000 -u 100 -r 50 -t 60s
"""

import math

from locust import LoadTestShape

_NUM_STEPS = 10


class Ramp(LoadTestShape):
    """Takes users, spawn rate and run time from the command line."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there should be now, and how fast they come; None at the end."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        share = self.get_run_time() / options.run_time  # type: ignore[no-untyped-call]
        if share >= 1:
            return None
        step = math.floor(share * _NUM_STEPS) + 1
        return math.ceil(options.num_users * step / _NUM_STEPS), options.spawn_rate
