"""How many candidates requests have: one number, or several with a weight each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import WrongCallError


@dataclass(frozen=True, slots=True)
class Mix:
    """Numbers of candidates, and how often each occurs."""

    num_candidates: tuple[int, ...]
    shares: tuple[float, ...]

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return (count,) numbers of candidates, in their exact shares up to rounding, in random order."""
        bounds = np.cumsum(self.shares) * count
        which = np.searchsorted(bounds, np.arange(count) + 0.5).clip(max=len(self.shares) - 1)
        return generator.permutation(np.array(self.num_candidates, dtype=np.int64)[which])


def parse_mix(text: str) -> Mix:
    """Read `100`, or numbers of candidates with weights such as `10:5,100:4,1000:1`.

    Raises
    ------
    WrongCallError
        It is neither.
    """
    pairs = []
    for part in text.split(","):
        number, _, weight = part.partition(":")
        try:
            pairs.append((int(number), float(weight or 1)))
        except ValueError:
            raise WrongCallError(
                f"{text!r} is not a number of candidates, nor a mix such as 10:5,100:4,1000:1"
            ) from None
    if any(number < 1 or not 0 < weight < float("inf") for number, weight in pairs):
        raise WrongCallError(f"{text!r}: numbers of candidates and weights must be positive")
    total = sum(weight for _, weight in pairs)
    return Mix(tuple(number for number, _ in pairs), tuple(weight / total for _, weight in pairs))
