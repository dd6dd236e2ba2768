"""Device memory that is promised before it is taken."""

import pytest

from scoring.budget import MIB, MemoryBudget
from scoring.errors import DeviceMemoryError


def test_what_was_reserved_is_given_back_with_its_last_reference():
    """So that a version that is let go makes room for the next."""
    budget = MemoryBudget(100, lambda: 1000)
    first = budget.reserve(60, "tables")
    assert (budget.reserved_bytes, budget.left_bytes) == (60, 40)
    del first
    assert budget.left_bytes == 100


def test_more_than_is_left_is_refused_and_says_how_much_that_is():
    """By the setting that would have to be larger; nothing is taken."""
    budget = MemoryBudget(100 * MIB, lambda: 1000 * MIB)
    kept = budget.reserve(60 * MIB, "weights")
    with pytest.raises(
        DeviceMemoryError, match=r"tables need 50 MiB of device memory; 40 is left of device_memory_mb"
    ) as caught:
        budget.reserve(50 * MIB, "tables")
    assert (caught.value.needed, caught.value.available) == (50 * MIB, 40 * MIB)
    assert budget.reserved_bytes == kept.num_bytes


def test_a_device_that_others_have_filled_is_no_room_either():
    """Whatever the budget allows."""
    budget = MemoryBudget(100 * MIB, lambda: 10 * MIB)
    with pytest.raises(DeviceMemoryError, match="10 is free on the device"):
        budget.reserve(50 * MIB, "tables")
    assert budget.reserved_bytes == 0
