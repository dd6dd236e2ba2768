"""What was served becomes what is trained on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from contract.client import Client
from contract.mmctr import read_clicks, read_items
from tests.e2e.test_prepare import (
    NUM_ITEMS,
    NUM_USERS,
    ROLES,
    START_S,
    load,
    succeed,
    topic_of,
    wait_until_known,
    write_catalogue,
    write_log,
)
from tests.service.running import await_ready, serving_process

CANDIDATES = 12
WAITING_USER = 1
"""Who `wait_until_known` ranks for."""


def serve(store: Path, data: Path, folder: Path, clicks_of: range) -> Path:
    """Serve users some candidates, logging all of it; return the folder of the log."""
    state, log = folder / "valkey", folder / "served"
    settings = {"store": store, "data_dir": state, "request_log_dir": log, "request_log_rate": 1}
    with serving_process(folder / "serve.log", **settings) as process:
        with Client(await_ready(process)) as client:
            load(data, state)
            wait_until_known(client, read_items(data / "item_info.parquet").item_id.tolist())
            for user in clicks_of:
                candidates = np.random.default_rng(user).choice(NUM_ITEMS, CANDIDATES, replace=False) + 1
                client.rank(user, candidates.tolist())
        process.terminate()
        assert process.wait(60) == 0
    return log


def write_clicks(path: Path, served: pa.Table) -> Path:
    """Write a click of each user on its topic's first candidate, 5 s after it was served, and one much later."""
    rows = [
        (row["user_id"], item, int(row["time"].timestamp()) + 5)
        for row in served.to_pylist()
        for item in [item for item in row["candidates"] if topic_of(item) == topic_of(row["user_id"])][:1]
    ]
    rows.append((NUM_USERS, 1, max(at for _, _, at in rows) + 3600))
    user, item, at = zip(*rows, strict=True)
    pa.csv.write_csv(pa.table({"viewer": user, "sku": [f"item-{number}" for number in item], "at": at}), path)
    return path


def clicked_in(path: Path) -> set[tuple[int, int]]:
    """Return the users and items of a log of clicks."""
    table = pa.csv.read_csv(path)
    items = [int(sku.removeprefix("item-")) for sku in table["sku"].to_pylist()]
    return set(zip(table["viewer"].to_pylist(), items, strict=True))


def test_what_was_served_is_prepared_and_trained_on(tmp_path: Path) -> None:
    """A row for each candidate, with the history and levels that it was served with, labelled by the clicks."""
    catalogue = write_catalogue(tmp_path / "items.jsonl", NUM_ITEMS)
    monday = write_log(tmp_path / "monday.csv", 3000, NUM_ITEMS, START_S, seed=1)
    data, store = tmp_path / "data", tmp_path / "store"
    succeed("prepare", "--events", monday, "--items", catalogue, "--out", data, "--width", 16, *ROLES)
    small = ["--recipe", "tiny", "--set", "epochs=1", "--set", "history_length=16"]
    succeed("train", "--data", data, "--out", tmp_path / "first", *small)
    items = data / "item_info.parquet"
    succeed("export", "--checkpoint", tmp_path / "first", "--items", items, "--store", store)

    log = serve(store, data, tmp_path, range(2, 102))
    (file,) = log.glob("*.parquet")
    everything = pq.read_table(file)
    served = everything.filter(pc.greater(everything["user_id"], WAITING_USER))
    assert served.num_rows == 100
    clicks = write_clicks(tmp_path / "tuesday.csv", served)
    logs = ["--events", monday, "--events", clicks, "--items", catalogue, "--served", file]
    again = ["--preparation", data / "preparation", "--out", tmp_path / "newer"]
    times = sorted(served["time"].to_pylist())
    split = [f"rows_from={times[0].isoformat()}", f"valid_from={times[80].isoformat()}", "test_share=0"]
    succeed("prepare", *logs, *again, *[part for one in (*split, "click_window_s=60") for part in ("--set", one)])

    logged = {row["user_id"]: row for row in served.to_pylist()}
    found, num_clicks = set(), 0
    for name, at_least in (("train", 700), ("valid", 150)):
        rows = read_clicks(tmp_path / "newer" / f"{name}.parquet", 16)
        assert rows.label is not None
        assert len(rows.user_id) > at_least
        num_clicks += int(rows.label.sum())
        for user, item, history, levels in zip(rows.user_id, rows.item_id, rows.history, rows.levels, strict=True):
            row = logged[int(user)]
            position = row["candidates"].index(int(item))
            assert history[history > 0].tolist() == row["history"][-16:]
            assert levels.tolist() == [row["likes_level"][position], row["views_level"][position]]
            found.add((int(user), int(item)))
    # What is left out was among the user's last clicks already.
    shown = {(user, item) for user, row in logged.items() for item in row["candidates"]}
    assert found <= shown
    assert shown - found <= clicked_in(monday)
    assert num_clicks == len(clicked_in(clicks) & found)
    grown = ["--from", tmp_path / "first", "--out", tmp_path / "second", "--set", "epochs=1"]
    succeed("train", "--data", tmp_path / "newer", *grown)
    assert succeed("export", "--checkpoint", tmp_path / "second", "--items", items, "--store", store).strip()
