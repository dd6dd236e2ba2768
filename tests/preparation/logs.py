"""A small log of clicks and a catalogue, written as their owner would have them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from preparation.assembly import Sources
from preparation.prepare import Prepared, prepare
from preparation.settings import make_settings

NUM_ITEMS, NUM_USERS, NUM_TOPICS = 60, 40, 4
START_S = 1_700_000_000


def topic_of(item: int) -> int:
    return item % NUM_TOPICS


def write_catalogue(folder: Path, first: int = 1, last: int = NUM_ITEMS, name: str = "items.jsonl") -> Path:
    """Write items first to last: words and tags of their topic; item 5 has no text, item 6 no tags."""
    generator = np.random.default_rng(3)
    lines = []
    for item in range(first, last + 1):
        words = [f"topic{topic_of(item)}word{number}" for number in generator.integers(0, 12, 5)]
        row = {"item_id": item, "title": " ".join(words), "tags": [f"topic {topic_of(item)}", f"sub {item % 7}"]}
        row |= {"title": None} if item == 5 else {}
        row |= {"tags": []} if item == 6 else {}
        lines.append(json.dumps(row))
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def clicks(num: int = 2000, num_items: int = NUM_ITEMS, seed: int = 1, start_s: int = START_S) -> dict:
    """Return columns of clicks: each user likes one topic, and times are so coarse that many are equal."""
    generator = np.random.default_rng(seed)
    user = generator.integers(1, NUM_USERS + 1, num)
    item = generator.integers(1, num_items + 1, num)
    liked = generator.random(num) < 0.8
    item[liked] = item[liked] // NUM_TOPICS * NUM_TOPICS + user[liked] % NUM_TOPICS
    item = np.clip(item, 1, num_items)
    time = start_s + generator.integers(0, num // 4, num) * 10
    return {"user_id": user, "item_id": item, "time": time}


def write(path: Path, columns: dict) -> Path:
    """Write columns in the format of the path's suffix."""
    table = pa.table(columns)
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def prepared(folder: Path, columns: dict, *settings: str, before: Path | None = None, **sources: Path) -> Prepared:
    """Prepare a log and the catalogue into folder/data."""
    folder.mkdir(exist_ok=True)
    items = sources.pop("items", None) or write_catalogue(folder)
    given = {name: [path] for name, path in sources.items()}
    files = Sources(
        [write(folder / "events.parquet", columns)], items, given.get("impressions", []), given.get("served", [])
    )
    chosen = make_settings(settings=["width=12", "history_length=8", *settings])
    return prepare(files, folder / "data", chosen, before)
