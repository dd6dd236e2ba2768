"""The tag vocabulary: the most frequent tags, numbered from 1; 0 is no tag."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fit_tags(tags: Sequence[Sequence[str]], size: int, before: Sequence[str] = ()) -> list[str]:
    """Return the vocabulary: tag i + 1 is element i.

    The tags of an earlier vocabulary come first and keep their numbers; then the others by the number of items that
    have them, ties in alphabetical order, until there are `size`.
    """
    counts = Counter(tag for item in tags for tag in item)
    known = set(before)
    new = sorted((tag for tag in counts if tag not in known), key=lambda tag: (-counts[tag], tag))
    return [*before, *new[: max(size - len(before), 0)]]


def to_slots(tags: Sequence[Sequence[str]], vocabulary: Sequence[str], max_tags: int) -> NDArray[np.int64]:
    """Return (n, max_tags) tag numbers: an item's first tags that the vocabulary holds, then 0."""
    number = {tag: position for position, tag in enumerate(vocabulary, start=1)}
    slots = np.zeros((len(tags), max_tags), dtype=np.int64)
    for row, item in enumerate(tags):
        found = [number[tag] for tag in item if tag in number][:max_tags]
        slots[row, : len(found)] = found
    return slots
