import numpy as np
import pytest

from preparation.events import Events
from preparation.timeline import Before, Ragged, Timeline


def random_events(num: int, seed: int) -> Events:
    """Events of few users, items and moments, so that everything repeats; user ids of any size."""
    generator = np.random.default_rng(seed)
    users = np.array([0, 7, 2**62, 5])
    return Events(
        users[generator.integers(0, 4, num)], generator.integers(0, 6, num), generator.integers(-20, 20, num)
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_history_is_what_was_clicked_strictly_before(seed: int) -> None:
    """Compared with a loop over all clicks: nothing of the same moment or later, oldest first, the last ones."""
    events = random_events(200, seed)
    item_ids = np.arange(100, 106)
    timeline = Timeline(events, item_ids, history_length=5)
    asked = random_events(50, seed + 100)
    histories = timeline.histories(asked.user, asked.time)
    for row in range(len(asked)):
        past = [
            (events.time[i], i)
            for i in range(len(events))
            if events.user[i] == asked.user[row] and events.time[i] < asked.time[row]
        ]
        wanted = [int(item_ids[events.item[i]]) for _, i in sorted(past)][-5:]
        got = histories.values[histories.offsets[row] : histories.offsets[row + 1]].tolist()
        assert got == wanted


def test_counts_are_of_what_came_strictly_before() -> None:
    """Compared with a loop; a key without events and a time beyond all are no exceptions."""
    events = random_events(300, 9)
    before = Before(events.item, events.time)
    items = np.array([0, 1, 5, 99, 3])
    times = np.array([0, -20, 500, 3, -500])
    wanted = [
        int(((events.item == item) & (events.time < time)).sum()) for item, time in zip(items, times, strict=True)
    ]
    assert before.counts(items, times).tolist() == wanted


def test_without_any_click_every_history_is_empty() -> None:
    """A log may begin after what is asked for."""
    nothing = np.zeros(0, dtype=np.int64)
    timeline = Timeline(Events(nothing, nothing, nothing), np.arange(3), history_length=5)
    histories = timeline.histories(np.array([1, 2]), np.array([5, 6]))
    assert histories.offsets.tolist() == [0, 0, 0]


def test_ragged_lists_are_cut_and_filtered() -> None:
    """`last` keeps the ends of lists, `where` chosen values; the lists stay apart."""
    ragged = Ragged(np.array([1, 2, 3, 4, 5, 6]), np.array([0, 3, 3, 6]))
    assert (ragged.last(2).values.tolist(), ragged.last(2).offsets.tolist()) == ([2, 3, 5, 6], [0, 2, 2, 4])
    even = ragged.where(ragged.values % 2 == 0)
    assert (even.values.tolist(), even.offsets.tolist()) == ([2, 4, 6], [0, 1, 1, 3])
