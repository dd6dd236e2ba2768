"""Whoever wants to know of what was answered, once it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from service.call import Call

if TYPE_CHECKING:
    from service.ranker import Ranking

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A request that was answered, and the answers to its queries."""

    call: Call
    rankings: "Sequence[Ranking]"


Observer = Callable[[Served], None]
"""Called in the event loop after every answer: it takes microseconds, and puts off whatever takes longer."""


class Observers:
    """All that observe the answers of one replica."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []

    def add(self, observer: Observer) -> None:
        """Tell an observer of every answer from now on."""
        self._observers.append(observer)

    def note(self, served: Served) -> None:
        """Tell all; none can harm the answer, or keep the others from being told."""
        for observer in self._observers:
            try:
                observer(served)
            except Exception:
                _log.exception("an answer could not be observed")
