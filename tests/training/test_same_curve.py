from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bench.published import PublishedBatch, PublishedQIN, PublishedTrainer
from tests.training.oracle import Oracle, load_oracle
from training.data import shuffled
from training.model import Batch
from training.step import Optimiser

LEARNING_RATE, L2, MAX_GRAD_NORM = 2e-3, 2e-4, 10.0


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    return load_oracle(tmp_path)


def published_batch(oracle: Oracle, batch: Batch) -> PublishedBatch:
    """Return the same clicks with the features of every item of every row."""
    assert batch.label is not None
    rows = torch.cat([batch.history, batch.candidate[:, None]], dim=1).flatten()
    items = oracle.items
    features = items.vocabulary_row[rows], items.tags[rows], items.embedding[rows]
    return PublishedBatch(*features, batch.history != 0, batch.levels, batch.label)


def published(oracle: Oracle) -> PublishedTrainer:
    """Return the published order of computation with the oracle's weights."""
    model = PublishedQIN(oracle.model.schema, oracle.model.config).double()
    model.load_state_dict(oracle.model.state_dict())
    return PublishedTrainer(model.train(), LEARNING_RATE, L2, MAX_GRAD_NORM)


def test_the_published_order_gives_what_the_authors_code_gives(oracle: Oracle) -> None:
    """What the curves and speeds are compared with is itself right: probabilities agree to 1e-12."""
    model = published(oracle).model.eval()
    probability = model(published_batch(oracle, oracle.batch)).detach().numpy()
    np.testing.assert_allclose(probability, oracle.expected["y_pred"][:, 0], rtol=0, atol=1e-12)


def test_200_steps_follow_the_curve_of_the_published_order(oracle: Oracle) -> None:
    """In float64 without dropout, in shuffled batches of uneven size: every loss and every weight agree to 1e-8."""
    trainer = published(oracle)
    for layer in oracle.model.layers:
        layer.dropout.p = 0.0
    for layer in trainer.model.layers:
        layer.dropout.p = 0.0
    optimiser = Optimiser(oracle.model.train(), oracle.items, LEARNING_RATE, L2, MAX_GRAD_NORM)
    ours, theirs = [], []
    for epoch in range(50):
        for rows in shuffled(len(oracle.batch.candidate), 18, seed=1, epoch=epoch):
            batch = Batch(*(values[rows] for values in oracle.batch))
            ours.append(float(optimiser.step(batch).loss))
            theirs.append(trainer.step(published_batch(oracle, batch)))
    assert len(ours) == 200
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
    assert ours[-1] < ours[0]
    for (name, one), other in zip(
        oracle.model.state_dict().items(), trainer.model.state_dict().values(), strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-8, err_msg=name)
