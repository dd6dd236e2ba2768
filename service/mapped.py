"""One version in a worker: a scorer of its own, and rows that the owner of the catalogue keeps up to date."""

import errno
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from contract.manifest import TableSpec
from scoring.memory import map_block
from scoring.scorer import Scorer
from scoring.views import View, Views
from service.board import Board
from service.messages import Part


class Mapping:
    """Arrays that the owner shares, mapped for as long as its latest message names them."""

    def __init__(self) -> None:
        self._arrays: dict[int, NDArray[Any]] = {}

    def take(self, parts: Sequence[Part], descriptors: list[int]) -> list[NDArray[Any]]:
        """Return the arrays of a message; the descriptors of those that are new are taken off the list."""
        for part in parts:
            if part.is_new:
                if not descriptors:
                    raise OSError(errno.EMFILE, "shared memory did not arrive: too many open files")
                self._arrays[part.number] = map_block(descriptors.pop(0), part.shape, part.dtype)
        self._arrays = {part.number: self._arrays[part.number] for part in parts}
        return list(self._arrays.values())


class MappedRows:
    """The catalogue as rows of one version's tables, as the owner shows them.

    Parameters
    ----------
    specs, history_length
        Of the version.
    number, arrays
        The first state.
    mapping
        Maps what later states consist of.
    board
        Where the number of unknown tags stands.
    released
        Called, in any thread, with the number of each state that nobody can see here any more.
    """

    def __init__(
        self,
        specs: Sequence[TableSpec],
        history_length: int,
        number: int,
        arrays: Sequence[NDArray[Any]],
        mapping: Mapping,
        board: Board,
        released: Callable[[int], object],
    ) -> None:
        self._specs, self._mapping, self._board = specs, mapping, board
        self._numbers = numbers = deque([number])
        # It does not know this object: in a circle of references memory would outlive its last user.
        self._views = Views(View.of_arrays(specs, arrays, history_length), lambda _: released(numbers.popleft()))

    def __len__(self) -> int:
        return len(self._views.newest.index)

    @property
    def num_unknown_tags(self) -> int:
        """Tags that the serving version dropped, for it does not know them."""
        return self._board["num_unknown_tags"]

    def view(self) -> AbstractContextManager[View]:
        """Hold the current state of the catalogue for as long as the block runs."""
        return self._views.held()

    def show(self, number: int, parts: Sequence[Part], descriptors: list[int]) -> None:
        """Go on with a newer state."""
        newest = self._views.newest
        view = View.of_arrays(self._specs, self._mapping.take(parts, descriptors), newest.history_length)
        self._numbers.append(number)
        self._views.publish(view)


@dataclass(frozen=True, slots=True)
class MappedVersion:
    """A version that can answer."""

    name: str
    scorer: Scorer
    rows: MappedRows

    @property
    def followed_s(self) -> float:
        """Any moment: what the owner notes of its catalogue tells how far these rows lag."""
        return math.inf


@dataclass(frozen=True, slots=True)
class MappedCatalogue:
    """What the owner notes about its mirror."""

    board: Board

    @property
    def degraded(self) -> bool:
        """Whether items are kept that Redis lost without anybody deleting them."""
        return bool(self.board["is_degraded"])

    @property
    def followed_s(self) -> float:
        """The moment, by the clock that all processes share, up to which the owner knows every write."""
        return self.board["followed_ms"] / 1000

    def __len__(self) -> int:
        return self.board["num_items"]
