"""The features of a QIN model: what every row of data must look like, offline and online."""

import hashlib

from pydantic import BaseModel, ConfigDict, Field

MAX_LEVEL = 10
NUM_LEVELS = MAX_LEVEL + 1
MAX_TAG_SLOTS = 64
MAX_WIDTH = 8192


class Schema(BaseModel):
    """Vocabulary sizes and widths that a model was built for.

    Two sides that hold the same schema agree on every shape. Row 0 of each vocabulary is padding
    and counts towards its size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_items: int = Field(ge=1, description="rows of the item id vocabulary, padding included")
    num_tags: int = Field(ge=1, description="rows of the tag vocabulary, padding included")
    num_likes_levels: int = Field(default=NUM_LEVELS, ge=1)
    num_views_levels: int = Field(default=NUM_LEVELS, ge=1)
    max_tags: int = Field(default=5, ge=1, le=MAX_TAG_SLOTS, description="tag slots of one item")
    embedding_width: int = Field(ge=1, le=MAX_WIDTH, description="numbers in an item's frozen embedding")
    history_length: int = Field(default=64, ge=1, le=4096, description="items of a history that count")

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON: equal digests, equal schemas."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
