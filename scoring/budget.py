"""Device memory, promised before it is taken: what would not fit is refused while everything else goes on."""

import threading
import weakref
from collections.abc import Callable

from scoring.errors import DeviceMemoryError

MIB = 2**20


class Reservation:
    """A share of a budget, given back with its last reference."""

    __slots__ = ("__weakref__", "num_bytes")

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes


class MemoryBudget:
    """What versions of the model may take of a device's memory, all together. Safe to use from several threads.

    Parameters
    ----------
    num_bytes
        The most that may be reserved.
    free_bytes
        Returns what the device has free now: others may use it too.
    """

    def __init__(self, num_bytes: int, free_bytes: Callable[[], int]) -> None:
        self.num_bytes, self._free_bytes = num_bytes, free_bytes
        self._taken = _Taken()

    @property
    def reserved_bytes(self) -> int:
        """What is promised at the moment."""
        return self._taken.num_bytes

    @property
    def left_bytes(self) -> int:
        """What may still be reserved."""
        return self.num_bytes - self._taken.num_bytes

    def reserve(self, num_bytes: int, purpose: str) -> Reservation:
        """Set memory aside until the reservation is dropped.

        Raises
        ------
        DeviceMemoryError
            The budget, or the device, has not so much left.
        """
        free = self._free_bytes()
        if num_bytes > free:
            raise DeviceMemoryError(purpose, num_bytes, free, "is free on the device")
        self._taken.add(num_bytes, self.num_bytes, purpose)
        reservation = Reservation(num_bytes)
        weakref.finalize(reservation, self._taken.give_back, num_bytes).atexit = False
        return reservation


class _Taken:
    """The sum of reservations, apart from the budget so that these outlive it without holding it."""

    def __init__(self) -> None:
        self.num_bytes = 0
        # A reservation may be dropped, by the collector of circles, in the very thread that makes another one.
        self._lock = threading.RLock()

    def add(self, num_bytes: int, most: int, purpose: str) -> None:
        with self._lock:
            left = most - self.num_bytes
            if num_bytes > left:
                raise DeviceMemoryError(purpose, num_bytes, left, "is left of device_memory_mb")
            self.num_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        with self._lock:
            self.num_bytes -= num_bytes
