"""The memory of a bucket: where a run on a device finds its inputs, and leaves its scores.

Shapes: U users, N candidates of each, H history length.
"""

import numpy as np
from numpy.typing import NDArray

_ALIGNED = 256


class Layout:
    """Where the inputs of a bucket lie in one stretch of memory, so that one copy takes them all."""

    def __init__(self, users: int, candidates: int, history_length: int) -> None:
        self.users, self.candidates = users, candidates
        self.shapes = [users, candidates], [users, history_length], [users, candidates, 2]
        self.offsets, self.num_bytes, self.num_scores = list[int](), 0, users * candidates
        for shape in self.shapes:
            self.offsets.append(self.num_bytes)
            self.num_bytes += -(-8 * int(np.prod(shape)) // _ALIGNED) * _ALIGNED


class BucketMemory:
    """A bucket's inputs and scores in the host's page-locked memory."""

    def __init__(self, layout: Layout, inputs: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        self.layout = layout
        self.candidate_rows, self.history_rows, self.levels = (
            inputs[offset : offset + 8 * int(np.prod(shape))].view(np.int64).reshape(shape)
            for offset, shape in zip(layout.offsets, layout.shapes, strict=True)
        )
        self.scores = scores[: 4 * layout.num_scores].view(np.float32).reshape(layout.users, layout.candidates)
        self.inputs_address: int = inputs.ctypes.data
        self.scores_address: int = scores.ctypes.data

    def fill(
        self, candidate_rows: NDArray[np.int64], history_rows: NDArray[np.int64], levels: NDArray[np.int64]
    ) -> None:
        """Put a request in, padded with row 0 and level 0."""
        num_users, num_candidates = candidate_rows.shape
        for values in (self.candidate_rows, self.levels):
            values[:num_users, num_candidates:] = 0
        for values in (self.candidate_rows, self.history_rows, self.levels):
            values[num_users:] = 0
        self.candidate_rows[:num_users, :num_candidates] = candidate_rows
        self.history_rows[:num_users] = history_rows
        self.levels[:num_users, :num_candidates] = levels

    def draw(self, seed: int, num_rows: int) -> None:
        """Put rows in at random, the same ones for the same seed."""
        generator = np.random.default_rng(seed)
        for values in (self.candidate_rows, self.history_rows):
            values[:] = generator.integers(0, num_rows, values.shape)
        self.levels[:] = 0

    def read(self, num_users: int, num_candidates: int) -> NDArray[np.float32]:
        """Return a copy of the scores of so many users and candidates."""
        return self.scores[:num_users, :num_candidates].copy()
