from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.server import running
from demo.world import DataSet, World, make_world, write_data_set
from export.checkpoint import export_checkpoint
from service.bulk import load_histories, load_items
from training.recipes import get_recipe, with_settings
from training.trainer import train


@dataclass(frozen=True)
class Product:
    """What the offline side made: clicks, a checkpoint, a store with one bundle."""

    world: World
    data: DataSet
    checkpoint: Path
    store: Path
    bundle: Path


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """A small world's clicks, a model trained on them, and its bundle."""
    folder = tmp_path_factory.mktemp("product")
    world = make_world(num_items=300, num_users=200)
    data = write_data_set(world, folder / "data", num_train=6000, num_valid=1500)
    recipe = with_settings(get_recipe("tiny"), ["epochs=2", "history_length=16"])
    checkpoint, store = folder / "checkpoint", folder / "store"
    train(data.folder, checkpoint, recipe)
    return Product(world, data, checkpoint, store, export_checkpoint(checkpoint, data.items, store))


@pytest.fixture(scope="session")
def served(product: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service over the whole world, with two versions of the model; tests may change users, items and trials."""
    folder = tmp_path_factory.mktemp("served")
    for _ in range(2):
        export_checkpoint(product.checkpoint, product.data.items, folder / "store")
    load_items(product.data.items, [product.data.train], None, folder / "valkey")
    load_histories([product.data.train], None, folder / "valkey")
    with running(folder / "store", folder / "valkey", folder / "serve.log") as url:
        yield url
