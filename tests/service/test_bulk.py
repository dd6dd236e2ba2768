from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from contract.codec import history_key, items_key, unpack_history, unpack_items
from contract.mmctr import MmctrError
from service.bulk import Loaded, load_histories, load_items
from service.embedded import running_or_own
from service.errors import ConflictError, RedisAbsentError
from tests.fakes import make_bundle, make_items
from tests.service.catalogue import Expected
from tests.service.conftest import Store
from tests.service.running import make_settings, running, wait_until


def write_items(path: Path, num_items: int = 100) -> Path:
    info = make_items(num_items)
    columns = {
        "item_id": info.item_id,
        "item_tags": info.tags.tolist(),
        "item_emb_d128": info.embedding.tolist(),
    }
    pq.write_table(pa.table(columns), path)
    return path


def write_clicks(path: Path, rows: list[tuple[int, int, list[int], int, int]]) -> Path:
    """Write rows of user, item, history, likes level, views level."""
    names = ("user_id", "item_id", "item_seq", "likes_level", "views_level")
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), path)
    return path


def stored_item(client: redis.Redis, item_id: int) -> np.void:
    return unpack_items([client.hget(items_key(item_id % 64), str(item_id))], 8)[0]


def test_items_are_stored_with_the_levels_they_last_had(tmp_path: Path, redis_url, plain):
    """The last row of the last file counts; items with differing rows are counted; items in none have level 0."""
    items = write_items(tmp_path / "items.parquet")
    first = write_clicks(
        tmp_path / "a.parquet", [(1, 5, [1], 3, 4), (1, 6, [1], 1, 1), (2, 6, [1], 2, 2), (2, 6, [1], 1, 1)]
    )
    second = write_clicks(
        tmp_path / "b.parquet", [(1, 5, [1], 9, 8), (1, 7, [1], 7, 7), (1, 7, [1], 7, 7), (1, 999, [1], 1, 1)]
    )
    assert load_items(items, [first, second], redis_url) == Loaded(written=100, differing=2)
    info = make_items(100)
    for item_id, levels in {5: (9, 8), 6: (1, 1), 7: (7, 7), 0: (0, 0), 99: (0, 0)}.items():
        record = stored_item(plain, item_id)
        assert (record["likes_level"], record["views_level"]) == levels
        np.testing.assert_array_equal(record["tags"], info.tags[item_id])
        np.testing.assert_array_equal(record["embedding"], info.embedding[item_id])


def test_items_may_be_loaded_again(tmp_path: Path, redis_url, plain):
    """Loading twice leaves one catalogue, with what came last."""
    items = write_items(tmp_path / "items.parquet")
    load_items(items, [write_clicks(tmp_path / "a.parquet", [(1, 5, [1], 3, 4)])], redis_url)
    assert load_items(items, [], redis_url) == Loaded(written=100, differing=0)
    assert stored_item(plain, 5)["likes_level"] == 0
    assert sum(plain.hlen(items_key(bucket)) for bucket in range(64)) == 100


def test_the_last_row_of_each_user_is_its_history(tmp_path: Path, redis_url, plain):
    """Later rows and files replace earlier ones, padding is left out, and differing users are counted."""
    first = write_clicks(
        tmp_path / "a.parquet",
        [
            (1, 5, [0, 0, 1, 2], 0, 0),
            (2, 5, [3, 4], 0, 0),
            (1, 5, [0, 1, 2, 9], 0, 0),
            (3, 5, [0, 0], 0, 0),
            (2, 6, [3, 4], 0, 0),
        ],
    )
    second = write_clicks(tmp_path / "b.parquet", [(3, 5, [0, 0], 0, 0), (4, 5, [1, 0, 2], 0, 0)])
    assert load_histories([first, second], redis_url) == Loaded(written=4, differing=1)
    histories = {user: unpack_history(plain.get(history_key(user))).tolist() for user in (1, 2, 3, 4)}
    assert histories == {1: [1, 2, 9], 2: [3, 4], 3: [], 4: [1, 0, 2]}


def test_long_histories_are_cut_to_their_last_items(tmp_path: Path, redis_url, plain):
    """No more is stored than the service keeps."""
    clicks = write_clicks(tmp_path / "a.parquet", [(1, 5, list(range(1, 101)), 0, 0)])
    load_histories([clicks], redis_url, length=10)
    assert unpack_history(plain.get(history_key(1))).tolist() == list(range(91, 101))


def test_a_service_ranks_what_was_loaded(tmp_path: Path, store: Store, redis_url):
    """Items loaded beside a running service are ranked soon after, histories at once."""
    with running(make_settings(store.folder, redis_url)) as service:
        load_items(write_items(tmp_path / "items.parquet"), [], redis_url)
        load_histories([write_clicks(tmp_path / "a.parquet", [(1, 5, [1, 2], 3, 4)])], redis_url)
        wait_until(lambda: service.client.rank(1, list(range(100))).unknown_items == [], timeout_s=5)
        assert service.client.history(1) == [1, 2]


def test_without_a_url_the_embedded_valkey_is_filled(tmp_path: Path):
    """A command that finds no Valkey running starts one, fills it and stops it."""
    load_items(write_items(tmp_path / "items.parquet"), [], data_dir=tmp_path / "data")
    load_histories([write_clicks(tmp_path / "a.parquet", [(1, 5, [1, 2], 3, 4)])], data_dir=tmp_path / "data")
    with running_or_own(tmp_path / "data") as url, redis.Redis.from_url(url) as client:
        assert client.hlen(items_key(3)) == 2
        assert unpack_history(client.get(history_key(1))).tolist() == [1, 2]


def test_a_wrong_file_or_an_absent_redis_is_told(tmp_path: Path, redis_url):
    """Files are named, and so is a Redis that does not answer."""
    with pytest.raises(MmctrError, match="does not exist"):
        load_items(tmp_path / "nothing.parquet", [], redis_url)
    items = write_items(tmp_path / "items.parquet")
    with pytest.raises(RedisAbsentError, match=r"redis://127\.0\.0\.1:1 does not answer"):
        load_items(items, [], "redis://127.0.0.1:1")


def test_many_rows_agree_with_a_plain_loop(tmp_path: Path, redis_url, plain):
    """Levels, histories and counts of a random file are what a loop over its rows finds."""
    generator = np.random.default_rng(5)
    rows = [
        (int(u), int(i), [int(h)] * 2, int(a), int(b))
        for u, i, h, a, b in generator.integers(0, [40, 50, 3, 2, 2], size=(3000, 5))
    ]
    rows += [(100, 60, [1, 1], 4, 4)] * 5
    paths = [write_clicks(tmp_path / f"{n}.parquet", rows[n::1][:1000] if n < 2 else rows[2000:]) for n in range(3)]
    in_order = [row for n in range(3) for row in (rows[n::1][:1000] if n < 2 else rows[2000:])]
    last_level: dict[int, tuple[int, int]] = {}
    seen_levels: dict[int, set] = {}
    last_history: dict[int, list[int]] = {}
    seen_histories: dict[int, set] = {}
    for user, item, history, likes, views in in_order:
        last_level[item] = (likes, views)
        seen_levels.setdefault(item, set()).add((likes, views))
        last_history[user] = [h for h in history if h]
        seen_histories.setdefault(user, set()).add(tuple(history))
    differing_items = sum(len(levels) > 1 for levels in seen_levels.values())
    differing_users = sum(len(histories) > 1 for histories in seen_histories.values())
    assert load_items(write_items(tmp_path / "i.parquet"), paths, redis_url).differing == differing_items
    assert load_histories(paths, redis_url) == Loaded(len(last_history), differing_users)
    for item, levels in last_level.items():
        record = stored_item(plain, item)
        assert (record["likes_level"], record["views_level"]) == levels
    for user, history in last_history.items():
        assert unpack_history(plain.get(history_key(user))).tolist() == history


def test_a_model_of_long_histories_ranks_with_all_that_were_loaded(tmp_path: Path, stocked_url):
    """Whole rows are stored, so that a model that takes 128 items gets 128, whatever a load knows of it."""
    bundle = make_bundle(tmp_path / "store", history_length=128)
    history = [(i * 7) % 119 + 1 for i in range(200)]
    load_histories([write_clicks(tmp_path / "a.parquet", [(1, 5, history, 3, 4)])], stocked_url)
    with running(make_settings(tmp_path / "store", stocked_url)) as service:
        scores = np.float32(service.client.rank(1, [9, 2]).scores)
    expected = Expected(bundle)
    np.testing.assert_array_equal(scores, expected.scores([9, 2], history[-128:]))
    assert np.abs(scores - expected.scores([9, 2], history[-64:])).max() > 1e-4


def test_the_same_history_in_files_of_other_widths_does_not_differ(tmp_path: Path, redis_url):
    """How long other users' histories are, and how far a row is padded, changes nothing."""
    narrow = write_clicks(tmp_path / "a.parquet", [(1, 5, [1, 2], 0, 0)])
    wide = write_clicks(tmp_path / "b.parquet", [(1, 5, [0, 0, 0, 1, 2], 0, 0), (2, 5, list(range(1, 90)), 0, 0)])
    assert load_histories([narrow, wide], redis_url) == Loaded(written=2, differing=0)


def test_items_of_another_layout_are_not_loaded_over_a_catalogue(tmp_path: Path, redis_url, plain):
    """A service that runs on the stored items would lose them all: nothing is written, and both widths are named."""
    load_items(write_items(tmp_path / "items.parquet"), [], redis_url)
    info = make_items(50, embedding_width=16)
    columns = {"item_id": info.item_id, "item_tags": info.tags.tolist(), "item_emb_d128": info.embedding.tolist()}
    pq.write_table(pa.table(columns), tmp_path / "other.parquet")
    with pytest.raises(ConflictError, match="width 16 and 5 tag slots, the stored ones 8 and 5; nothing was written"):
        load_items(tmp_path / "other.parquet", [], redis_url)
    assert len(plain.hget(items_key(1), "1")) == 8 + 20 + 4 * 8
