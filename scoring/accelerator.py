"""What scoring needs of a GPU beside ONNX Runtime: memory, copies, and work that is recorded once and then repeated.

`scoring.cuda` is the one for NVIDIA's. Addresses and sizes are in bytes; whatever is enqueued runs later, in order.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Provider = tuple[str, Mapping[str, str]]
"""An execution provider of ONNX Runtime, and its options."""


class Memory(Protocol):
    """Memory of the device, freed with the last reference."""

    @property
    def address(self) -> int:
        """Where it begins; a multiple of 256."""

    @property
    def num_bytes(self) -> int:
        """Its size."""


class Copies(Protocol):
    """A queue of copies, beside whatever else the device does."""

    def copy_in(self, target: int, source: int, num_bytes: int) -> None:
        """Enqueue a copy to the device, from page-locked memory that stays as it is until the copy was made."""

    def copy_out(self, target: int, source: int, num_bytes: int) -> None:
        """Enqueue a copy from the device."""

    def copy_within(self, target: int, source: int, num_bytes: int) -> None:
        """Enqueue a copy from one place on the device to another."""

    def wait(self) -> None:
        """Return once all that was enqueued is done."""


class Stream(Copies, Protocol):
    """A queue of copies and of a session's runs."""

    def provider(self, memory_limit: int, for_capture: bool) -> Provider:
        """Return what makes a session run in this queue.

        Parameters
        ----------
        memory_limit
            The most bytes that the session may take of the device for weights and intermediate values.
        for_capture
            Whether its runs are to be captured.
        """

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """Record what `work` enqueues, without doing it, and return what does it and waits.

        Nothing else may use this queue meanwhile; other queues, of whatever thread, go on. `work` may be called
        several times.
        """


class Accelerator(Protocol):
    """A device. Safe to use from several threads, but each queue by one at a time."""

    @property
    def kind(self) -> str:
        """What ONNX Runtime calls it where values are bound: `cuda`."""

    def allocate(self, num_bytes: int) -> Memory:
        """Return memory of the device, filled with zeros."""

    def page_locked(self, num_bytes: int) -> NDArray[np.uint8]:
        """Return memory of the host that the device reads and writes itself."""

    def free_bytes(self) -> int:
        """Return how much memory of the device nobody has taken."""

    def copies(self) -> Copies:
        """Return a queue for copies."""

    def stream(self) -> Stream:
        """Return a queue for a session."""
