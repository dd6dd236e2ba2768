from pathlib import Path

import numpy as np

from contract.client import Client
from contract.mmctr import read_items
from demo.server import running
from scoring.evaluate import score_bundle
from service.bulk import load_histories, load_items
from tests.bench.skew import skew
from tests.e2e.conftest import Product
from tests.service.running import wait_until
from training.evaluate import score_checkpoint


def test_a_bundle_scores_a_file_as_its_checkpoint_does(product: Product) -> None:
    """`qin evaluate` gives the same numbers from torch and from the graphs that are served."""
    trained, labels = score_checkpoint(product.checkpoint, product.data.valid, product.data.items)
    folded, same_labels = score_bundle(product.bundle, product.data.valid, product.data.items)
    assert np.abs(trained - folded).max() < 1e-5
    assert labels is not None
    assert np.array_equal(labels, same_labels)


def test_served_scores_are_the_trained_model_s(product: Product, tmp_path: Path) -> None:
    """Every validation row, over HTTP with items, levels and histories from Redis, scores as in training."""
    with running(product.store, tmp_path / "valkey", tmp_path / "serve.log") as url:
        load_items(product.data.items, [product.data.train, product.data.valid], None, tmp_path / "valkey")
        load_histories([product.data.valid], None, tmp_path / "valkey")
        with Client(url) as client:
            items = read_items(product.data.items).item_id.tolist()
            wait_until(lambda: not client.rank(1, items).unknown_items)
        difference = skew(url, product.checkpoint, product.data.valid, product.data.items, 1500)
    assert difference < 1e-5
