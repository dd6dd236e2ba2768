"""What the routes and the ranker need of a version and of whoever chooses it, in a replica of one process or many."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from contract.manifest import Manifest
from contract.wire import GateResult
from scoring.scorer import Scorer
from scoring.views import View
from service.batch import Batch
from service.lineup import Lineup, Trial


class ServingRows(Protocol):
    """The catalogue as rows of a version's tables."""

    def __len__(self) -> int:
        """Return the number of items."""

    def view(self) -> AbstractContextManager[View]:
        """Hold the current state of the catalogue for as long as the block runs."""

    @property
    def num_unknown_tags(self) -> int:
        """Tags that the version dropped, for it does not know them."""


class ServingVersion(Protocol):
    """A version that can answer."""

    @property
    def name(self) -> str:
        """The version's name."""

    @property
    def scorer(self) -> Scorer:
        """Scores with it."""

    @property
    def rows(self) -> ServingRows:
        """The catalogue, encoded for it."""

    @property
    def followed_s(self) -> float:
        """The moment, by the monotonic clock, up to which the rows have every change that is known."""


@dataclass(frozen=True, slots=True)
class State:
    """What this replica serves and what it was told to serve."""

    serving: str
    active: str | None
    previous: str | None
    trial: Trial | None
    problem: str | None


class Versions(Protocol):
    """Holds the serving version; everybody who ranks takes it from here, once per request."""

    @property
    def lineup(self) -> Lineup[ServingVersion]:
        """The loaded versions and who gets which."""

    @property
    def serving(self) -> ServingVersion:
        """The version that answers whoever is in no trial."""

    @property
    def is_serving(self) -> bool:
        """Whether a version has been loaded yet."""

    def choose(self, user_id: int) -> ServingVersion:
        """Return the version that answers a user."""

    def named(self, name: str) -> ServingVersion | None:
        """Return a loaded version by its name."""

    def versions(self) -> list[Manifest]:
        """Return the manifests of all versions in the store, oldest first; raises UnavailableError."""

    async def state(self) -> State:
        """Return what serves and what should."""

    @property
    def problem(self) -> str | None:
        """Why something else serves here than should, or None."""

    async def promote(
        self, name: str, canary: float = 0.0, shadow: bool = False, force: bool = False
    ) -> GateResult | None:
        """Make a version the active one, or put it on trial; raises RequestError."""

    async def rollback(self) -> None:
        """End the trial, or make the version active again that was so before; raises RequestError."""


class HotItems(Protocol):
    """The hot part of a catalogue that is larger than the mirror."""

    def missing(self, version: ServingVersion, batch: Batch) -> dict[int, set[int]]:
        """Return, by position of the user, which items are not mirrored though Redis may hold them."""

    async def admit(self, version: ServingVersion, item_ids: Collection[int]) -> None:
        """Read items and make them ready to rank with, as far as that succeeds in time."""


class Catalogue(Protocol):
    """What is known of the catalogue beside its rows."""

    @property
    def degraded(self) -> bool:
        """Whether items are kept here that Redis lost without anybody deleting them."""

    @property
    def followed_s(self) -> float:
        """The moment, by the monotonic clock, up to which every write is known."""

    def __len__(self) -> int:
        """Return the number of items."""
