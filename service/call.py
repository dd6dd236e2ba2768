"""One request to rank on its way through the service."""

import math
import time
from dataclasses import dataclass, field

from service.errors import DeadlineError
from service.stages import Stages


@dataclass(slots=True)
class Call:
    """What accompanies the queries of one request.

    Attributes
    ----------
    request_id
        Names it in logs.
    arrived_s, deadline_s
        When its headers were read, and until when it must be answered; by the monotonic clock.
    explain
        Whether attention weights are wanted.
    version
        The only version that may answer; None: whichever serves the user.
    stages
        Where its time goes.
    cost_s
        For how long the scoring thread was busy with it: its share of what was scored together.
    """

    request_id: str = ""
    arrived_s: float = field(default_factory=time.monotonic)
    deadline_s: float = math.inf
    explain: bool = False
    version: str | None = None
    stages: Stages = field(default_factory=Stages)
    cost_s: float = 0.0

    def limit(self, limit_ms: float | None) -> None:
        """Move the deadline to so long after the arrival, if that is sooner."""
        if limit_ms is not None:
            self.deadline_s = min(self.deadline_s, self.arrived_s + limit_ms / 1000)

    def check_deadline(self) -> None:
        """Raise DeadlineError if it is past."""
        if self.deadline_s < math.inf and time.monotonic() > self.deadline_s:
            raise DeadlineError("the deadline passed before the candidates could be ranked")
