"""What preparing has fitted, on disk: enough to prepare one more item, or the next day's logs, alike.

    preparation.json     settings, tag vocabulary, level edges, words, and the hash of the arrays
    arrays.npz           TF-IDF weights, SVD and PCA
    item_ids.parquet     raw and id of every item
    user_ids.parquet     raw and id of every user

Nothing in it is a pickle.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from preparation.embedding import Embedder
from preparation.errors import StoredError
from preparation.levels import LevelRule
from preparation.settings import Settings
from preparation.tfidf import Tfidf

DESCRIPTION, ARRAYS = "preparation.json", "arrays.npz"
ITEM_IDS, USER_IDS = "item_ids.parquet", "user_ids.parquet"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    settings: Settings
    tags: list[str]
    likes: LevelRule
    views: LevelRule
    text_encoder: str
    image_encoder: str
    words: list[str] | None
    items_kept: bool
    next_item_id: int
    arrays_sha256: str


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted; ids are kept beside it (`preparation.identity`)."""

    settings: Settings
    tags: list[str]  # tag i + 1 is element i
    likes: LevelRule
    views: LevelRule
    embedder: Embedder
    items_kept: bool  # item ids are what they were in the catalogue
    next_item_id: int  # the smallest id above all of the catalogue's

    def save(self, folder: Path) -> None:
        """Write it into an existing folder."""
        arrays: dict[str, NDArray[Any]] = {"mean": self.embedder.mean, "components": self.embedder.components}
        tfidf = self.embedder.tfidf
        if tfidf is not None:
            arrays |= {"idf": tfidf.idf, "word_components": tfidf.components}
        np.savez(folder / ARRAYS, **arrays)  # type: ignore[arg-type]
        stored = _Stored(
            settings=self.settings,
            tags=self.tags,
            likes=self.likes,
            views=self.views,
            text_encoder=self.embedder.text_encoder,
            image_encoder=self.embedder.image_encoder,
            words=None if tfidf is None else tfidf.words,
            items_kept=self.items_kept,
            next_item_id=self.next_item_id,
            arrays_sha256=_digest(folder / ARRAYS),
        )
        (folder / DESCRIPTION).write_text(stored.model_dump_json(indent=1), encoding="utf-8")


def load_fitted(folder: Path) -> Fitted:
    """Read what `Fitted.save` wrote.

    Raises
    ------
    StoredError
        A file is missing, changed or of another layout.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise StoredError(f"{folder} holds no preparation: there is no {DESCRIPTION}")
    try:
        stored = _Stored.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise StoredError(f"{path} is not valid: {where}: {first['msg']}") from error
    arrays = _read_arrays(folder / ARRAYS, stored.arrays_sha256)
    tfidf = None if stored.words is None else Tfidf(stored.words, arrays["idf"], arrays["word_components"])
    embedder = Embedder(stored.text_encoder, stored.image_encoder, tfidf, arrays["mean"], arrays["components"])
    return Fitted(
        stored.settings,
        stored.tags,
        stored.likes,
        stored.views,
        embedder,
        stored.items_kept,
        stored.next_item_id,
    )


def _read_arrays(path: Path, sha256: str) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise StoredError(f"{path} does not exist")
    if _digest(path) != sha256:
        raise StoredError(f"{path} has changed since it was written")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
