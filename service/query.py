"""What is ranked: one user's candidates, whichever protocol they came by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.schema import Schema
from service.errors import InvalidError


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One user's candidates, and whatever the request says in place of what is stored.

    Attributes
    ----------
    user_id
        Whose history counts.
    candidates
        (N,) item ids, at least one.
    history
        (k,) item ids, oldest first; None: the stored ones.
    likes_level, views_level
        (N,) levels; None: the stored ones.
    where
        What the paths of its values begin with in errors, such as `requests[3].`.
    """

    user_id: int
    candidates: NDArray[np.int64]
    history: NDArray[np.int64] | None = None
    likes_level: NDArray[np.int64] | None = None
    views_level: NDArray[np.int64] | None = None
    where: str = ""

    @property
    def num_candidates(self) -> int:
        """N."""
        return len(self.candidates)

    def check_fits(self, features: Schema) -> None:
        """Raise InvalidError where levels are not one for each candidate, or are none that a model knows."""
        self._check_levels(self.likes_level, features.num_likes_levels, "likes_level")
        self._check_levels(self.views_level, features.num_views_levels, "views_level")

    def _check_levels(self, levels: NDArray[np.int64] | None, num_levels: int, name: str) -> None:
        if levels is None:
            return
        if len(levels) != len(self.candidates):
            raise InvalidError(f"{len(levels)} levels for {len(self.candidates)} candidates", f"{self.where}{name}")
        wrong = np.flatnonzero((levels < 0) | (levels >= num_levels))
        if len(wrong):
            raise InvalidError(
                f"level {levels[wrong[0]]} where the model's highest is {num_levels - 1}",
                f"{self.where}{name}[{wrong[0]}]",
            )
