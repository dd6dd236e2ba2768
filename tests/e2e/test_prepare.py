"""From an event log as it comes to a served model, and on to the next day's."""

import json
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
from typer.testing import CliRunner

import qin
from contract.client import Client
from contract.mmctr import read_items
from contract.wire import Item
from demo.server import running

NUM_ITEMS, NUM_NEW, NUM_USERS, NUM_TOPICS = 120, 500, 150, 6
DAY_S = 86_400
START_S = 1_700_000_000
WAIT_S = 60


def topic_of(item: int) -> int:
    return item % NUM_TOPICS


def write_catalogue(path: Path, last: int) -> Path:
    """Write items 1 to last as a shop has them: a title of its topic's words, tags, its number as text."""
    generator = np.random.default_rng(5)
    rows = [
        {
            "sku": f"item-{item}",
            "name": " ".join(f"t{topic_of(item)}w{word}" for word in generator.integers(0, 10, 6)),
            "labels": f"topic {topic_of(item)}|shelf {item % 11}",
        }
        for item in range(1, last + 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_log(path: Path, num_clicks: int, last: int, start_s: int, seed: int) -> Path:
    """Write a day of clicks; each user keeps to one topic in nine cases of ten."""
    generator = np.random.default_rng(seed)
    user, item = generator.integers(1, NUM_USERS + 1, num_clicks), generator.integers(1, last + 1, num_clicks)
    liked = generator.random(num_clicks) < 0.9
    item[liked] += (user[liked] - item[liked]) % NUM_TOPICS
    item = np.where(item > last, item - NUM_TOPICS, item)
    columns = {
        "viewer": user,
        "sku": [f"item-{number}" for number in item],
        "at": np.sort(start_s + generator.integers(0, DAY_S, num_clicks)),
    }
    pa.csv.write_csv(pa.table(columns), path)
    return path


ROLES = [
    argument
    for role in ("user=viewer", "item=sku", "time=at", "text=name", "tags=labels")
    for argument in ("--column", role)
]


def succeed(*arguments: object) -> str:
    """Run a command that must succeed, in this process, and return what it printed."""
    done = CliRunner().invoke(qin.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.stdout


def wait_until_known(client: Client, items: list[int]) -> None:
    deadline = time.monotonic() + WAIT_S
    while client.rank(1, items).unknown_items:
        assert time.monotonic() < deadline, "the service does not see the items"
        time.sleep(0.01)


def test_a_log_becomes_a_served_model_and_goes_on_the_next_day(tmp_path: Path) -> None:
    """Prepare, check, train, export, load, rank; a new item; 500 more items and a second day that grow the model."""
    catalogue = write_catalogue(tmp_path / "items.jsonl", NUM_ITEMS)
    monday = write_log(tmp_path / "monday.csv", 5000, NUM_ITEMS, START_S, seed=1)
    data, store, state = tmp_path / "data", tmp_path / "store", tmp_path / "valkey"
    said = succeed("prepare", "--events", monday, "--items", catalogue, "--out", data, "--width", 16, *ROLES)
    assert f"{NUM_ITEMS} items in item_info.parquet" in said
    assert "error" not in succeed("check-data", "--data", data)
    settings = ["--recipe", "tiny", "--set", "epochs=3", "--set", "history_length=16"]
    succeed("train", "--data", data, "--out", tmp_path / "first", *settings)
    assert (tmp_path / "first" / "report.html").exists()
    items = data / "item_info.parquet"
    first = succeed("export", "--checkpoint", tmp_path / "first", "--items", items, "--store", store).strip()
    with running(store, state, tmp_path / "serve.log") as url, Client(url) as client:
        load(data, state)
        ids = read_items(items).item_id.tolist()
        wait_until_known(client, ids)
        liked = liked_share(client, ids)
        assert liked > 0.5, f"{liked:.0%} of the best ten are of the user's topic, of which one in six items is"
        rank_a_new_item(client, data, tmp_path)

        everything = write_catalogue(tmp_path / "more.jsonl", NUM_ITEMS + NUM_NEW)
        tuesday = write_log(tmp_path / "tuesday.csv", 3000, NUM_ITEMS + NUM_NEW, START_S + DAY_S, seed=2)
        newer = tmp_path / "newer"
        logs = ["--events", monday, "--events", tuesday, "--items", everything, "--out", newer]
        since = f"rows_from={START_S + DAY_S}"
        succeed("prepare", *logs, "--preparation", data / "preparation", "--set", since)
        new_items = newer / "item_info.parquet"
        grow = ["train", "--data", newer, "--from", tmp_path / "first"]
        succeed(*grow, "--out", tmp_path / "grown", "--set", "epochs=0")
        succeed(*grow, "--out", tmp_path / "second", "--set", "epochs=1")
        versions = [
            succeed("export", "--checkpoint", tmp_path / name, "--items", new_items, "--store", store).strip()
            for name in ("grown", "second")
        ]
        before = np.array(client.rank(1, ids).scores)
        # Models that learned for seconds: one may score quite unlike the other.
        client.promote(versions[0], force=True)
        assert np.abs(np.array(client.rank(1, ids).scores) - before).max() < 1e-6
        load(newer, state)
        all_ids = read_items(new_items).item_id.tolist()
        assert all_ids[:NUM_ITEMS] == ids
        wait_until_known(client, all_ids)
        client.promote(versions[1], force=True)
        answer = client.rank(1, all_ids)
        assert (answer.version, len(answer.scores), answer.unknown_items) == (versions[1], NUM_ITEMS + NUM_NEW, [])
        assert client.rollback().models[0].serving != first


def load(data: Path, state: Path) -> None:
    """Load items with their last levels, and users with their last histories."""
    levels = ["--levels", data / "last_levels.parquet", "--data-dir", state]
    succeed("load-items", "--items", data / "item_info.parquet", *levels)
    histories = succeed("load-histories", "--data", data / "last_histories.parquet", "--data-dir", state)
    assert "0 users had rows that differed" in histories


def liked_share(client: Client, ids: list[int]) -> float:
    """Return how many of users' ten best items are of their own topic; items are numbered as they were written."""
    best = [client.rank(user, ids, top_k=10).items or [] for user in range(1, 31)]
    own = [topic_of(item) == topic_of(user) for user, items in enumerate(best, start=1) for item in items]
    return sum(own) / len(own)


def rank_a_new_item(client: Client, data: Path, folder: Path) -> None:
    """Prepare an item that no model has seen, put it, and find it ranked high for whoever likes its topic."""
    row = {"sku": "brand-new", "name": "t1w1 t1w2 t1w3 t1w4", "labels": "topic 1", "likes": 5, "views": 5}
    (folder / "item.json").write_text(json.dumps(row))
    arguments = ["prepare-item", "--preparation", data / "preparation", "--item", folder / "item.json"]
    done = CliRunner().invoke(qin.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert f"{NUM_ITEMS + 1} is free" in done.stderr
    item = msgspec.json.decode(done.stdout, type=Item)
    client.put_item(NUM_ITEMS + 1, item)
    wait_until_known(client, [NUM_ITEMS + 1])
    fans = [client.rank(user, [NUM_ITEMS + 1]).scores[0] for user in range(1, NUM_USERS, NUM_TOPICS)]
    others = [client.rank(user, [NUM_ITEMS + 1]).scores[0] for user in range(4, NUM_USERS, NUM_TOPICS)]
    assert np.mean(fans) > np.mean(others)
