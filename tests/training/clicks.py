"""A small world of clicks with something to learn in it, written as MM-CTR parquet."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.recipes import Recipe, with_settings

WIDTH = 8
NUM_TOPICS = 4


def write_data(folder: Path, num_rows: int = 3000, num_items: int = 200, seed: int = 1) -> Path:
    """Write train, valid and item_info: users like one topic, which an item's tags and embedding betray.

    Item ids are not dense, one item in five has no tag, one history in five is empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    ids = np.concatenate([[0], np.sort(generator.choice(np.arange(1, 10 * num_items), num_items, replace=False))])
    topic = generator.integers(0, NUM_TOPICS, len(ids))
    write_items(folder / "item_info.parquet", ids, topic, generator)
    for name, rows in (("train", num_rows), ("valid", num_rows // 4)):
        write_clicks(folder / f"{name}.parquet", ids[1:], topic[1:], rows, generator)
    return folder


def write_items(path: Path, ids: NDArray[np.int64], topic: NDArray[np.int64], generator: np.random.Generator) -> None:
    tags = np.zeros((len(ids), 5), dtype=np.int64)
    tags[:, 0], tags[:, 1] = topic + 1, generator.integers(NUM_TOPICS + 1, 30, len(ids))
    tags[generator.random(len(ids)) < 0.2] = 0
    embedding = np.eye(NUM_TOPICS, WIDTH)[topic] + generator.normal(scale=0.2, size=(len(ids), WIDTH))
    tags[ids == 0], embedding[ids == 0] = 0, 0
    columns = {"item_id": ids, "item_tags": list(tags), "item_emb_d128": list(embedding.astype(np.float32))}
    pq.write_table(pa.table(columns), path)


def write_clicks(
    path: Path, ids: NDArray[np.int64], topic: NDArray[np.int64], num_rows: int, generator: np.random.Generator
) -> None:
    liked = generator.integers(0, NUM_TOPICS, num_rows)
    of_topic = [np.flatnonzero(topic == number) for number in range(NUM_TOPICS)]
    history = np.zeros((num_rows, 64), dtype=np.int64)
    for row in np.flatnonzero(generator.random(num_rows) > 0.2):
        length = generator.integers(1, 9)
        history[row, -length:] = ids[generator.choice(of_topic[liked[row]], length)]
    candidate = generator.integers(0, len(ids), num_rows)
    alike = generator.random(num_rows) < 0.4
    candidate[alike] = [generator.choice(of_topic[number]) for number in liked[alike]]
    noise = generator.random(num_rows) < 0.05
    columns = {
        "user_id": np.arange(num_rows),
        "item_id": ids[candidate],
        "item_seq": list(history),
        "likes_level": generator.integers(0, 11, num_rows),
        "views_level": generator.integers(0, 11, num_rows),
        "label": ((topic[candidate] == liked) ^ noise).astype(np.int64),
    }
    pq.write_table(pa.table(columns), path)


def replace_column(path: Path, name: str, row: int, value: object) -> None:
    """Change one value of a parquet file."""
    table = pq.read_table(path)
    values = table[name].to_pylist()
    values[row] = value
    column = pa.array(values, type=table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


def small_recipe(*settings: str) -> Recipe:
    """Return a recipe for these clicks that uses every part of training and needs a second."""
    small = Recipe(
        name="small",
        embedding_dim=8,
        num_layers=2,
        num_rows=2,
        batch_size=64,
        learning_rate=8e-3,
        l2=1e-6,
        epochs=3,
        device="cpu",
    )
    return with_settings(small, settings)
