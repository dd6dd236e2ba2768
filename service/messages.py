"""What the owner of the catalogue and its workers say to each other."""

from typing import Any

import msgspec
from numpy.typing import NDArray

from contract.wire import GateResult
from scoring.memory import Block
from service import errors
from service.errors import RequestError
from service.lineup import Trial
from service.serving import State

_BY_NAME = {
    error.__name__: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, RequestError)
}


class Part(msgspec.Struct, frozen=True, array_like=True):
    """An array in shared memory; where it is new to the worker, its descriptor travels with the message."""

    number: int
    shape: tuple[int, ...]
    dtype: str
    is_new: bool

    @classmethod
    def of(cls, block: Block, is_new: bool) -> "Part":
        """Describe a block."""
        return cls(block.number, block.shape, block.dtype, is_new)


class Open(msgspec.Struct, frozen=True, tag=True):
    """To a worker: open a version beside the one that serves, check it, warm it up.

    `view` are the parts of its rows as they are now, `golden` those of tables with the golden items.
    """

    version: str
    number: int
    view: list[Part]
    golden: list[Part]


class Show(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the rows of an open version have a newer state. A later state has a higher `number`."""

    version: str
    number: int
    view: list[Part]


class Serve(msgspec.Struct, frozen=True, tag=True):
    """To a worker: answer with this version from now on, and with the one on trial as far as the trial says."""

    version: str
    trial: Trial | None = None


class Ping(msgspec.Struct, frozen=True, tag=True):
    """To a worker: answer, to show that you do not hang."""


class Forget(msgspec.Struct, frozen=True, tag=True):
    """To a worker: this version serves no more."""

    version: str


class Released(msgspec.Struct, frozen=True, tag=True):
    """To the owner: no request can see this state of a version's rows any more, nor an older one."""

    version: str
    number: int


class Promote(msgspec.Struct, frozen=True, tag=True):
    """To the owner: see `service.registry.Registry.promote`."""

    version: str
    canary: float = 0.0
    shadow: bool = False
    force: bool = False


class Rollback(msgspec.Struct, frozen=True, tag=True):
    """To the owner: see `service.registry.Registry.rollback`."""


class GetState(msgspec.Struct, frozen=True, tag=True):
    """To the owner: what serves, and what should."""


class GetItem(msgspec.Struct, frozen=True, tag=True):
    """To the owner: an item as it was last seen."""

    item_id: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """An answer: it is done."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """An answer: it cannot be done."""

    error: str
    detail: str
    field: str | None = None

    @classmethod
    def of(cls, error: RequestError) -> "Failed":
        """Describe an error."""
        return cls(type(error).__name__, error.detail, error.field)

    def as_error(self) -> RequestError:
        """Return the error again, for whoever asked."""
        return _BY_NAME[self.error](self.detail, self.field)


class StateIs(msgspec.Struct, frozen=True, tag=True):
    """An answer: what serves, and what should."""

    state: State


class Promoted(msgspec.Struct, frozen=True, tag=True):
    """An answer: it is promoted, and what the gate found."""

    found: GateResult | None


class ItemIs(msgspec.Struct, frozen=True, tag=True):
    """An answer: a packed item, or None."""

    value: bytes | None


Message = (
    Open | Show | Serve | Ping | Forget | Released
    | Promote | Rollback | GetState | GetItem
    | Done | Failed | StateIs | ItemIs | Promoted
)  # fmt: skip

Arrays = list[NDArray[Any]]
