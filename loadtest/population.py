"""Who asks, and for what: users and items by Zipf's law, most popular first."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.mmctr import iter_clicks, read_items
from loadtest.errors import WrongCallError

_SPARSE = 8
"""With so many items for each candidate, drawing with repetition and dropping repeats is quick."""


@dataclass(frozen=True, slots=True)
class Zipf:
    """Ids of which the r-th is drawn with a probability in proportion to r to the power of -exponent."""

    ids: NDArray[np.int64]  # (n,) most popular first
    exponent: float
    _cumulative: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = np.arange(1, len(self.ids) + 1, dtype=np.float64) ** -self.exponent
        object.__setattr__(self, "_cumulative", _cumulative(weights))

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return (count,) ids, with repetition."""
        return self.ids[self._ranks(generator, count)]

    def draw_distinct(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return (count,) different ids.

        Raises
        ------
        WrongCallError
            There are not so many.
        """
        if count > len(self.ids):
            raise WrongCallError(f"{count} different candidates cannot be drawn from {len(self.ids)} items")
        if count * _SPARSE > len(self.ids):
            # The largest of Gumbel-perturbed log weights: successive draws without replacement in one step.
            keys = generator.gumbel(size=len(self.ids)) - self.exponent * np.log(np.arange(1, len(self.ids) + 1))
            return self.ids[np.argsort(-keys)[:count]]
        ranks: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        while len(ranks) < count:
            drawn = np.concatenate([ranks, self._ranks(generator, 2 * count)])
            ranks = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        return self.ids[ranks[:count]]

    def _ranks(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        ranks: NDArray[np.int64] = np.searchsorted(self._cumulative, generator.uniform(size=count))
        return ranks


def _cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.cumsum(weights)
    shares: NDArray[np.float64] = total / total[-1]
    return shares  # its last is 1 exactly, so that no draw falls behind it


@dataclass(frozen=True, slots=True)
class Population:
    """Users and items of a load."""

    users: Zipf
    items: Zipf


def from_ranges(
    users: tuple[int, int], items: tuple[int, int], exponent: float, generator: np.random.Generator
) -> Population:
    """Return a population of ids from first to last, their popularity by chance."""
    ids = [generator.permutation(np.arange(first, last + 1, dtype=np.int64)) for first, last in (users, items)]
    return Population(*(Zipf(each, exponent) for each in ids))


def from_files(
    items: Path, clicks: Sequence[Path], users: tuple[int, int], exponent: float, generator: np.random.Generator
) -> Population:
    """Return a population of real ids; popularity is that of the clicks, where there are any.

    Parameters
    ----------
    items
        An `item_info.parquet`.
    clicks
        Files in the MM-CTR layout, or none: then the users are those from first to last.
    users
        First and last id, where there are no clicks.

    Raises
    ------
    MmctrError
        A file is damaged or not of that layout.
    """
    catalogue = generator.permutation(read_items(items).item_id)
    if not clicks:
        return Population(from_ranges(users, (0, 0), exponent, generator).users, Zipf(catalogue, exponent))
    batches = [(batch.user_id, batch.item_id) for path in clicks for batch in iter_clicks(path, 1)]
    if not batches:
        raise WrongCallError(f"{clicks[0]} holds no clicks")
    clicked, counts = np.unique(np.concatenate([batch[1] for batch in batches]), return_counts=True)
    popularity = dict(zip(clicked.tolist(), counts.tolist(), strict=True))
    order = np.argsort([-popularity.get(item_id, 0) for item_id in catalogue.tolist()], kind="stable")
    return Population(
        Zipf(_by_count(np.concatenate([batch[0] for batch in batches])), exponent), Zipf(catalogue[order], exponent)
    )


def _by_count(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return different ids, the most frequent first."""
    different, counts = np.unique(ids, return_counts=True)
    return different[np.argsort(-counts, kind="stable")]
