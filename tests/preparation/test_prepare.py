from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from contract.mmctr import read_clicks, read_items
from preparation.errors import PreparationError, SettingError, SourceError
from preparation.fitted import load_fitted
from preparation.identity import load_ids
from preparation.levels import to_levels
from service.last_rows import last_histories, last_levels
from tests.preparation.logs import NUM_ITEMS, START_S, clicks, prepared, write, write_catalogue

FILES = ("train.parquet", "valid.parquet", "test.parquet")


def test_rows_know_nothing_of_their_own_moment_or_later(plain: Path) -> None:
    """Every clicked row, compared with a loop over the log: history, and levels by what was counted before it."""
    log = clicks()
    fitted = load_fitted(plain / "preparation")
    events = sorted(zip(log["time"], log["user_id"], log["item_id"], range(2000), strict=True), key=lambda e: e[0])
    clicked = [row for name in FILES for row in read_rows(plain / name) if row["label"] == 1]
    wanted = defaultdict(list)
    for time, user, item, _ in events:
        before = [event for event in events if event[0] < time]
        of_user = sorted((event for event in before if event[1] == user), key=lambda e: (e[0], e[3]))
        share = sum(event[2] == item for event in before) * NUM_ITEMS / max(len(before), 1)
        level = int(to_levels(np.array([share]), fitted.likes.edges)[0])
        wanted[user, item].append(([int(event[2]) for event in of_user][-8:], level))
    assert len(clicked) == len(events)
    for row in clicked:
        histories = wanted[row["user_id"], row["item_id"]]
        assert (row["item_seq"], row["likes_level"]) in histories
        histories.remove((row["item_seq"], row["likes_level"]))


def read_rows(path: Path) -> list[dict]:
    rows: list[dict] = pq.read_table(path).to_pylist()
    return rows


def test_no_row_is_younger_than_any_of_a_later_file(plain: Path) -> None:
    """The share of clicks is what was asked for, as far as moments can be told apart."""
    times = defaultdict(list)
    log = clicks()
    for time, user, item in zip(log["time"], log["user_id"], log["item_id"], strict=True):
        times[user, item].append(int(time))
    counts = []
    latest = 0
    for name in FILES:
        rows = [row for row in read_rows(plain / name) if row["label"] == 1]
        counts.append(len(rows))
        # A pair that was clicked more than once could be any of its moments.
        known = [times[row["user_id"], row["item_id"]] for row in rows]
        once = [moments[0] for moments in known if len(moments) == 1]
        assert min(once) >= latest
        latest = max(once)
    assert counts == pytest.approx([1600, 200, 200], abs=10)


def test_negatives_are_four_a_click_and_never_what_the_user_clicked(plain: Path) -> None:
    """In all three files, by clicks of all three."""
    log = clicks()
    met = set(zip(log["user_id"].tolist(), log["item_id"].tolist(), strict=True))
    for name in FILES:
        rows = read_clicks(plain / name, 8)
        assert rows.label is not None
        pairs = zip(rows.user_id[rows.label == 0].tolist(), rows.item_id[rows.label == 0].tolist(), strict=True)
        assert not met & set(pairs)
        assert rows.label.mean() == pytest.approx(0.2, abs=0.01)


def test_items_have_tags_and_embeddings(plain: Path) -> None:
    """Item 5 has no text, item 6 no tags; the others have both, at length 1."""
    info = read_items(plain / "item_info.parquet")
    assert info.item_id.tolist() == list(range(1, NUM_ITEMS + 1))
    lengths = np.linalg.norm(info.embedding, axis=1)
    assert lengths == pytest.approx([0.0 if item == 5 else 1.0 for item in info.item_id], abs=1e-5)
    assert (info.tags[info.item_id == 6] == 0).all()
    assert ((info.tags > 0).sum(axis=1)[info.item_id != 6] == 2).all()


def test_what_serving_starts_from_is_what_was_known_at_the_end(plain: Path) -> None:
    """Last histories and last levels are those after every event."""
    log = clicks()
    histories, differing = last_histories([plain / "last_histories.parquet"], 8)
    order = np.argsort(log["time"], kind="stable")
    for user in (1, 17, 40):
        wanted = log["item_id"][order][log["user_id"][order] == user][-8:]
        assert np.frombuffer(histories[user], dtype="<i8").tolist() == wanted.tolist()
    assert differing == 0
    levels, _ = last_levels(np.arange(1, NUM_ITEMS + 1), [plain / "last_levels.parquet"])
    rule = load_fitted(plain / "preparation").likes
    counts = np.bincount(log["item_id"], minlength=NUM_ITEMS + 1)[1:]
    assert levels[:, 0].tolist() == [rule.level(int(count)) for count in counts]
    assert len(set(levels[:, 0].tolist())) > 5


def test_labels_in_the_log_are_the_rows(tmp_path: Path) -> None:
    """What was shown without a click is the negative; histories hold clicks alone; views count everything shown."""
    columns = clicks() | {"label": np.random.default_rng(5).integers(0, 2, 2000)}
    folder = prepared(tmp_path, columns, "valid_share=0", "test_share=0").folder
    rows = read_clicks(folder / "train.parquet", 8)
    met = set(zip(*(columns[name][columns["label"] == 1].tolist() for name in ("user_id", "item_id")), strict=True))
    shown = list(zip(columns["user_id"].tolist(), columns["item_id"].tolist(), columns["label"], strict=True))
    wanted = sorted((u, i, label) for u, i, label in shown if label == 1 or (u, i) not in met)
    assert rows.label is not None
    assert sorted(zip(rows.user_id.tolist(), rows.item_id.tolist(), rows.label, strict=True)) == wanted
    last = rows.history[rows.user_id == 3][-1]
    assert {(3, item) for item in last.tolist() if item} <= met
    fitted = load_fitted(folder / "preparation")
    assert fitted.views.edges != fitted.likes.edges


def test_impressions_are_the_rows_and_take_their_labels_from_clicks(tmp_path: Path) -> None:
    """A click within the window is one; impressions too young to know are left out."""
    log = clicks()
    impressions = {name: log[name][:1500].copy() for name in log}
    impressions["time"] -= np.where(np.arange(1500) % 2, 20, 4000)
    shown = write(tmp_path / "shown.csv", impressions)
    made = prepared(tmp_path / "p", log, "valid_share=0", "test_share=0", "click_window_s=60", impressions=shown)
    rows = read_clicks(made.folder / "train.parquet", 8)
    assert rows.label is not None
    assert 0 < rows.label.sum() <= 1500
    assert len(rows) < 1500 - 500  # what was shown, not clicked within the window and clicked elsewhere is no row


def test_text_ids_are_numbered_and_the_numbers_are_kept(tmp_path: Path) -> None:
    """The maps tell which number is whose."""
    log = clicks()
    columns = log | {"user_id": [f"user {user}" for user in log["user_id"]]}
    folder = prepared(tmp_path, columns).folder
    users = load_ids(folder / "preparation" / "user_ids.parquet")
    rows = read_clicks(folder / "train.parquet", 8)
    names = dict(zip(users.ids.tolist(), users.raw.to_pylist(), strict=True))
    met = set(zip(columns["user_id"], log["item_id"].tolist(), strict=True))
    assert rows.label is not None
    for user, item in zip(
        rows.user_id[rows.label == 1].tolist(), rows.item_id[rows.label == 1].tolist(), strict=True
    ):
        assert (names[user], item) in met
    assert not users.kept


def test_the_next_day_goes_on_from_the_first(plain: Path, tmp_path: Path) -> None:
    """Numbers of tags and edges of levels stay, old items have the same embedding, new ones follow; history too."""
    first, second = clicks(), clicks(500, NUM_ITEMS + 10, seed=2, start_s=START_S + 50_000)
    columns = {name: np.concatenate([first[name], second[name]]) for name in first}
    items = tmp_path / "all.jsonl"
    write_catalogue(tmp_path, name="old.jsonl")
    write_catalogue(tmp_path, NUM_ITEMS + 1, NUM_ITEMS + 10, "new.jsonl")
    items.write_text((tmp_path / "old.jsonl").read_text() + (tmp_path / "new.jsonl").read_text())
    since = "2023-11-15T12:06:40Z"  # START_S and 50,000 seconds
    before = plain / "preparation"
    made = prepared(tmp_path, columns, f"rows_from={since}", before=before, items=items)
    old, new = (read_items(folder / "item_info.parquet") for folder in (plain, made.folder))
    assert np.abs(new.embedding[:NUM_ITEMS] - old.embedding).max() < 1e-6
    assert new.tags[:NUM_ITEMS].tolist() == old.tags.tolist()
    assert len(new) == NUM_ITEMS + 10
    fitted, fitted_before = load_fitted(made.folder / "preparation"), load_fitted(before)
    assert fitted.likes.edges == fitted_before.likes.edges
    assert fitted.tags[: len(fitted_before.tags)] == fitted_before.tags
    assert sum(made.num_clicks.values()) == 500
    assert (read_clicks(made.folder / "train.parquet", 8).history != 0).all()  # all from the first day on


def test_events_on_unknown_items_are_left_out_if_they_are_few(tmp_path: Path) -> None:
    """Many are an error that says how many."""
    log = clicks()
    few = log | {"item_id": np.where(np.arange(2000) % 100 == 0, 999, log["item_id"])}
    assert sum(prepared(tmp_path / "few", few).num_clicks.values()) == 1980
    many = log | {"item_id": np.where(np.arange(2000) % 2 == 0, 999, log["item_id"])}
    with pytest.raises(SourceError, match=r"50\.0% of 2,000 events are on items that the catalogue lacks"):
        prepared(tmp_path / "many", many)
    assert not (tmp_path / "many" / "data").exists()


def test_a_folder_is_whole_or_absent(plain: Path, tmp_path: Path) -> None:
    """What exists is not written into, and what failed leaves nothing behind."""
    prepared(tmp_path, clicks())
    with pytest.raises(SettingError, match="exists already"):
        prepared(tmp_path, clicks())
    with pytest.raises(SettingError, match="no click at or after rows_from"):
        prepared(tmp_path / "late", clicks(), "rows_from=2100-01-01")
    assert [path.name for path in sorted((tmp_path / "late").iterdir())] == ["events.parquet", "items.jsonl"]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [("width=7", "width was 12 in the preparation to go on from and cannot be 7"), ("levels=log", "levels was")],
)
def test_what_was_fitted_cannot_be_changed_afterwards(
    plain: Path, tmp_path: Path, setting: str, complaint: str
) -> None:
    """Vectors of another width would not be comparable."""
    with pytest.raises(PreparationError, match=complaint):
        prepared(tmp_path, clicks(), setting, before=plain / "preparation")


def test_long_logs_are_written_in_parts(tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And are the same as in one."""
    monkeypatch.setattr("preparation.output._ROWS_AT_ONCE", 97)
    folder = prepared(tmp_path, clicks()).folder
    for path in plain.glob("*.parquet"):
        assert pq.read_table(folder / path.name).equals(pq.read_table(path)), path.name
