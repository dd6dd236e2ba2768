"""Where the time of one request goes."""

from collections.abc import Iterator
from dataclasses import dataclass

STAGES = ("parse", "history", "queue", "rows", "score", "encode")


@dataclass(slots=True)
class Stages:
    """Seconds that a request spent in each stage, filled in as it goes."""

    parse: float = 0.0  # from the whole body to queries
    history: float = 0.0  # waiting for histories from Redis
    queue: float = 0.0  # waiting for the scoring thread, and for the event loop to hear of it
    rows: float = 0.0  # looking up ids
    score: float = 0.0  # in ONNX Runtime
    encode: float = 0.0  # from scores to the answer's bytes

    @property
    def total(self) -> float:
        """From the whole body to the answer's bytes."""
        return self.parse + self.history + self.queue + self.rows + self.score + self.encode

    def items(self) -> Iterator[tuple[str, float]]:
        """Give each stage's name and seconds, in their order."""
        for stage in STAGES:
            yield stage, getattr(self, stage)
