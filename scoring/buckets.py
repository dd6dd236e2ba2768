"""Shapes that runs on a GPU come in: each is made ready once, and what is asked for is padded to the next one."""

import itertools
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

MOST_ROWS = 16_384
"""Candidates of all users in one run."""

Shape = tuple[int, int]
"""Users and candidates of each."""

Piece = tuple[slice, slice]
"""Users and candidates, of a request, that go into one run."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """The shapes of runs.

    A user's scores depend on nobody else, and a candidate's on no other one. So what no bucket holds is cut, along
    either axis, into pieces that buckets hold.

    Parameters
    ----------
    candidates, users
        The sizes along either axis, ascending.
    most_rows
        How many candidates of all users a run may have: memory for the largest run is kept all the time.
    """

    candidates: tuple[int, ...] = (1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    users: tuple[int, ...] = (1, 2, 4, 8, 16)
    most_rows: int = MOST_ROWS

    def __post_init__(self) -> None:
        for sizes in (self.candidates, self.users):
            assert sizes
            assert sizes[0] >= 1
            assert all(low < high for low, high in itertools.pairwise(sizes))
        assert self.users[0] * self.candidates[-1] <= self.most_rows

    @property
    def shapes(self) -> list[Shape]:
        """Every bucket, those with the most rows first: memory that served them serves the smaller ones too."""
        shapes = [(users, count) for users in self.users for count in self.candidates]
        return sorted((shape for shape in shapes if self._fits(*shape)), key=lambda shape: -shape[0] * shape[1])

    def smallest(self, num_users: int, num_candidates: int) -> Shape | None:
        """Return the smallest bucket that holds so many users and candidates, or None."""
        user, candidate = bisect_left(self.users, num_users), bisect_left(self.candidates, num_candidates)
        if user == len(self.users) or candidate == len(self.candidates):
            return None
        shape = self.users[user], self.candidates[candidate]
        return shape if self._fits(*shape) else None

    def pieces(self, num_users: int, num_candidates: int) -> Iterator[Piece]:
        """Cut users and candidates into pieces that a bucket holds each."""
        most_candidates = min(num_candidates, self.candidates[-1])
        padded = self.candidates[bisect_left(self.candidates, most_candidates)]
        most_users = max(users for users in self.users if self._fits(users, padded))
        for user in range(0, num_users, most_users):
            for candidate in range(0, num_candidates, most_candidates):
                yield slice(user, user + most_users), slice(candidate, candidate + most_candidates)

    def _fits(self, users: int, candidates: int) -> bool:
        return users * candidates <= self.most_rows
