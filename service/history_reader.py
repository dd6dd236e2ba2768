"""Histories as a rank reads them: within milliseconds or not at all."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from service.breaker import Breaker
from service.timed import REDIS_ERRORS
from service.users import Histories


class HistoryReader:
    """Reads histories with a circuit breaker for each place, so that one dead node of a Cluster costs only its users.

    Parameters
    ----------
    histories
        What is read.
    timeout_s
        How long a read may take.
    """

    def __init__(self, histories: Histories, timeout_s: float) -> None:
        self._histories, self._timeout_s = histories, timeout_s
        self._breakers: dict[str, Breaker] = {}

    @property
    def num_open(self) -> int:
        """How many places are not asked at the moment, for they did not answer."""
        return sum(breaker.is_open for breaker in self._breakers.values())

    async def read(self, user_ids: Sequence[int]) -> list[bytes | None]:
        """Return each user's packed history, None where it could not be read in time."""
        places = [self._histories.place_of(user_id) for user_id in user_ids]
        if len(set(places)) == 1:
            return await self._read(places[0], user_ids)
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for user_id, place in zip(user_ids, places, strict=True):
            groups[place].append(user_id)
        parts = await asyncio.gather(*(self._read(place, group) for place, group in groups.items()))
        read = {place: iter(part) for place, part in zip(groups, parts, strict=True)}
        return [next(read[place]) for place in places]

    async def aclose(self) -> None:
        """End the probes."""
        await asyncio.gather(*(breaker.aclose() for breaker in self._breakers.values()))

    async def _read(self, place: str, user_ids: Sequence[int]) -> list[bytes | None]:
        breaker = self._breakers.get(place)
        if breaker is None:
            what = f"histories of {place}" if place else "histories"
            breaker = self._breakers[place] = Breaker(what, self._timeout_s)
        try:
            return list(await breaker.call(lambda: self._histories.read(user_ids)))
        except REDIS_ERRORS:
            return [None] * len(user_ids)
