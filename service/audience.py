"""Who else serves what the registry serves: nobody in one process, the workers where there are several."""

from typing import Protocol

from service.lineup import Lineup
from service.version import LoadedVersion


class Audience(Protocol):
    """Told of every swap, in this order."""

    async def prepare(self, version: LoadedVersion) -> None:
        """Make a version ready everywhere; raises RequestError if it cannot serve somewhere."""

    async def exchange(self, lineup: Lineup[LoadedVersion]) -> None:
        """Serve with these versions everywhere; returns once it is so."""

    def forget(self, version: LoadedVersion) -> None:
        """Note that a version serves no more, or never will."""


class Nobody:
    """The audience of a registry whose own process answers the requests."""

    async def prepare(self, version: LoadedVersion) -> None:
        """Do nothing."""

    async def exchange(self, lineup: Lineup[LoadedVersion]) -> None:
        """Do nothing."""

    def forget(self, version: LoadedVersion) -> None:
        """Do nothing."""
