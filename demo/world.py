"""Clicks in the MM-CTR layout whose probability is known, and with it the best AUC that any model can reach.

An item has a direction (its topic and something of its own) and a quality. Its embedding is the direction seen
through a random matrix, with noise; its tags name the topic; its levels are deciles of its quality. A user's history
draws items from one or two topics. The candidate is clicked with probability

    sigmoid(STRENGTH * cos(mean direction of the history, direction) + QUALITY * quality + BIAS)

which depends on nothing but what the model sees.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.metrics import auc

STRENGTH, QUALITY, BIAS = 3.0, 1.0, -1.0
NUM_DIRECTIONS = 8
MAX_TAGS = 5


@dataclass(frozen=True, slots=True)
class World:
    """Items and users; item i lies in row i, row 0 is padding and has no features."""

    direction: NDArray[np.float64]  # (n, NUM_DIRECTIONS), unit length
    quality: NDArray[np.float64]  # (n,)
    tags: NDArray[np.int64]  # (n, MAX_TAGS)
    embedding: NDArray[np.float32]  # (n, F)
    levels: NDArray[np.int64]  # (n, 2)
    lens: NDArray[np.float64]  # (NUM_DIRECTIONS, F): how a direction shows in an embedding
    topic: NDArray[np.int64]  # (n,)
    history: NDArray[np.int64]  # (users, H), oldest first, left-padded; row u is user u + 1's

    def click_probability(self, histories: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (n,) the true probability that a user with history (n, H) clicks an item (n,)."""
        return self.probability_of(histories, self.direction[items], self.quality[items])

    def probability_of(
        self, histories: NDArray[np.int64], direction: NDArray[np.float64], quality: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (n,) the true click probability of items that need not be in the catalogue."""
        interest = (self.direction[histories] * (histories > 0)[..., None]).sum(1)
        length = np.maximum(np.linalg.norm(interest, axis=1), 1e-9)
        affinity = (interest * direction).sum(1) / length
        probability: NDArray[np.float64] = 1 / (1 + np.exp(-(STRENGTH * affinity + QUALITY * quality + BIAS)))
        return probability


def make_world(
    num_items: int = 500,
    num_users: int = 1000,
    history_length: int = 16,
    embedding_width: int = 16,
    num_topics: int = 12,
    seed: int = 1,
) -> World:
    """Return a world of items 1 to num_items and users 1 to num_users; the same seed, the same world."""
    generator = np.random.default_rng(seed)
    topics = _unit(generator.normal(size=(num_topics, NUM_DIRECTIONS)))
    topic = generator.integers(0, num_topics, num_items + 1)
    direction = _unit(topics[topic] + 0.35 * generator.normal(size=(num_items + 1, NUM_DIRECTIONS)))
    quality = generator.normal(size=num_items + 1)
    lens = generator.normal(size=(NUM_DIRECTIONS, embedding_width))
    embedding = direction @ lens + 0.1 * generator.normal(size=(num_items + 1, embedding_width))
    tags = _tags(topic, num_topics, generator)
    deciles = np.argsort(np.argsort(quality[1:])) * 10 // num_items + 1
    noisy = np.clip(deciles + generator.integers(-1, 2, num_items), 1, 10)
    levels = np.concatenate([[[0, 0]], np.stack([deciles, noisy], axis=1)])
    direction[0], embedding[0], tags[0] = 0, 0, 0
    history = _histories(topic, num_users, history_length, generator)
    return World(direction, quality, tags, embedding.astype(np.float32), levels, lens, topic, history)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def _tags(topic: NDArray[np.int64], num_topics: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the topic's tag, then up to four of its hashtags; one item in ten has no tag at all."""
    tags = np.zeros((len(topic), MAX_TAGS), dtype=np.int64)
    tags[:, 0] = topic + 1
    hashtags = 1 + num_topics + topic[:, None] * 5 + generator.integers(0, 5, (len(topic), MAX_TAGS - 1))
    tags[:, 1:] = np.where(generator.random(hashtags.shape) < 0.4, hashtags, 0)
    tags[generator.random(len(topic)) < 0.1] = 0
    return tags


def _histories(
    topic: NDArray[np.int64], num_users: int, length: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return each user's items from two topics; lengths from empty to full."""
    histories = np.zeros((num_users, length), dtype=np.int64)
    by_topic = [np.flatnonzero(topic[1:] == number) + 1 for number in range(topic.max() + 1)]
    for user in range(num_users):
        first, second = generator.choice(len(by_topic), 2, replace=False)
        pool = np.concatenate([by_topic[first], by_topic[first], by_topic[second]])
        count = generator.integers(0, length + 1)
        if count and len(pool):
            histories[user, -count:] = generator.choice(pool, count)
    return histories


@dataclass(frozen=True, slots=True)
class DataSet:
    """Where a world's clicks were written, and what is known of them."""

    folder: Path
    best_auc: float  # of the true probabilities, on the validation rows

    @property
    def items(self) -> Path:
        """The item_info file."""
        return self.folder / "item_info.parquet"

    @property
    def train(self) -> Path:
        """The training clicks."""
        return self.folder / "train.parquet"

    @property
    def valid(self) -> Path:
        """The validation clicks."""
        return self.folder / "valid.parquet"


def write_data_set(
    world: World, folder: Path, num_train: int = 80_000, num_valid: int = 8_000, seed: int = 2
) -> DataSet:
    """Draw clicks and write train.parquet, valid.parquet and item_info.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    _write_clicks(world, folder / "train.parquet", num_train, generator)
    probability, label = _write_clicks(world, folder / "valid.parquet", num_valid, generator)
    items = pa.table(
        {
            "item_id": np.arange(len(world.tags)),
            "item_tags": list(world.tags),
            "item_emb_d128": list(world.embedding),
        }
    )
    pq.write_table(items, folder / "item_info.parquet")
    best_auc = auc(label.astype(np.float32), probability)
    assert best_auc is not None  # both outcomes occur
    return DataSet(folder, best_auc)


def _write_clicks(
    world: World, path: Path, num_rows: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    users = generator.integers(0, len(world.history), num_rows)
    items = generator.integers(1, len(world.tags), num_rows)
    probability = world.click_probability(world.history[users], items)
    label = (generator.random(num_rows) < probability).astype(np.int64)
    columns = {
        "user_id": users + 1,
        "item_id": items,
        "item_seq": list(world.history[users]),
        "likes_level": world.levels[items, 0],
        "views_level": world.levels[items, 1],
        "label": label.astype(np.float32),
    }
    pq.write_table(pa.table(columns), path)
    return probability, label
