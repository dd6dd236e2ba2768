"""The rows to be: who, which item, when, clicked or not; and where history and levels of each come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that training will see, without what has to be looked up for them."""

    user: NDArray[np.int64]  # (n,) user ids
    item: NDArray[np.int64]  # (n,) positions in the catalogue
    time: NDArray[np.int64]  # (n,) microseconds; what is known of user and item is what was so before
    clicked: NDArray[np.bool_]  # (n,)
    request: NDArray[np.integer]  # (n,) position in the served requests, -1 where none
    slot: NDArray[np.integer]  # (n,) position among all candidates served, -1 where none

    def __len__(self) -> int:
        return len(self.time)

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "Rows":
        """Return the chosen rows, in the order in which they are chosen."""
        return Rows(
            self.user[chosen],
            self.item[chosen],
            self.time[chosen],
            self.clicked[chosen],
            self.request[chosen],
            self.slot[chosen],
        )

    @classmethod
    def logged(
        cls,
        user: NDArray[np.int64],
        item: NDArray[np.int64],
        time: NDArray[np.int64],
        clicked: NDArray[np.bool_],
    ) -> "Rows":
        """Return rows of which history and levels follow from the clicks."""
        nowhere = np.full(len(time), -1, dtype=np.int8)
        return cls(user, item, time, clicked, nowhere, nowhere)

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """Return the rows of all parts by time; rows of one moment stay in the order in which they were given."""
        order = np.argsort(np.concatenate([part.time for part in parts]), kind="stable")
        # Column by column: no second copy of all of them at once.
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts])[order] for name in cls.__slots__})
