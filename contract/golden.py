"""Golden rows: what the trained model gave for a few rankings; export, load and every swap check against them."""

import io
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.arrays import ArrayFileError, read_npz
from contract.bundle_errors import BundleCorruptError
from contract.schema import Schema

GOLDEN = "golden.npz"

_DTYPES = {
    "item_id": np.int64,
    "tags": np.int64,
    "embedding": np.float32,
    "candidate_rows": np.int64,
    "history_rows": np.int64,
    "levels": np.int64,
    "scores": np.float64,
    "weights": np.float64,
}


@dataclass(frozen=True, slots=True)
class Golden:
    """Items and rankings with the outputs that the trained model gave them in float64.

    Golden item g lies in table row g + 1; row 0 is padding and stands for unknown items. Shapes: G items,
    U users, N candidates, H history length, T tag slots, F embedding width.
    """

    item_id: NDArray[np.int64]  # (G,)
    tags: NDArray[np.int64]  # (G, T)
    embedding: NDArray[np.float32]  # (G, F)
    candidate_rows: NDArray[np.int64]  # (U, N)
    history_rows: NDArray[np.int64]  # (U, H)
    levels: NDArray[np.int64]  # (U, N, 2)
    scores: NDArray[np.float64]  # (U, N)
    weights: NDArray[np.float64]  # (U, N, H)

    def to_bytes(self) -> bytes:
        """Return the arrays as an uncompressed npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Golden":
        """Read an npz file; raises BundleCorruptError where it is not one."""
        try:
            arrays: dict[str, Any] = read_npz(data, _DTYPES)
        except ArrayFileError as error:
            raise BundleCorruptError(f"{GOLDEN} cannot be read: {error}") from error
        return cls(**arrays)

    def check(self, schema: Schema) -> None:
        """Raise BundleCorruptError unless these are rankings that a model of this schema can be given.

        A row past the tables' end would be read from memory that is not theirs.
        """
        if self.scores.ndim != 2 or not self.scores.size:
            raise BundleCorruptError(f"{GOLDEN} holds no scores to check against")
        (num_users, num_candidates), length = self.scores.shape, schema.history_length
        num_items = len(self.item_id) if self.item_id.ndim == 1 else -1
        shapes = {
            "item_id": (num_items,),
            "tags": (num_items, schema.max_tags),
            "embedding": (num_items, schema.embedding_width),
            "candidate_rows": (num_users, num_candidates),
            "history_rows": (num_users, length),
            "levels": (num_users, num_candidates, 2),
            "weights": (num_users, num_candidates, length),
        }
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise BundleCorruptError(f"{GOLDEN}: {name} is of shape {found}, not {shape}")
        likes, views = self.levels[..., 0], self.levels[..., 1]
        _check_range("candidate_rows", self.candidate_rows, num_items + 1)
        _check_range("history_rows", self.history_rows, num_items + 1)
        _check_range("levels", likes, schema.num_likes_levels)
        _check_range("levels", views, schema.num_views_levels)
        for name in ("embedding", "scores", "weights"):
            if not np.isfinite(getattr(self, name)).all():
                raise BundleCorruptError(f"{GOLDEN}: {name} holds a number that is not finite")


def _check_range(name: str, values: NDArray[np.int64], end: int) -> None:
    if int(values.min()) < 0 or int(values.max()) >= end:
        raise BundleCorruptError(f"{GOLDEN}: {name} holds a number outside 0 to {end - 1}")
