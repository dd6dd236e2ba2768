from pathlib import Path

import pytest
import torch

from tests.training.oracle import Oracle, load_oracle
from training.model import QIN, Batch
from training.step import Optimiser


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    return load_oracle(tmp_path)


def test_rows_that_are_absent_from_a_batch_move_too(oracle: Oracle) -> None:
    """The L2 term covers whole tables: an item that no click names shrinks in every step."""
    weight = oracle.model.item_embedding.weight
    before = weight.detach().clone()
    absent = torch.ones(len(weight), dtype=torch.bool)
    batch = Batch(*(values[:6] for values in oracle.batch))
    named = torch.cat([batch.candidate, batch.history.flatten().long()])
    absent[oracle.items.vocabulary_row[named]] = False
    absent[0] = False
    assert absent.any()
    Optimiser(oracle.model, oracle.items, learning_rate=1e-3, l2=2e-4, max_grad_norm=10).step(batch)
    assert (weight[absent].detach().abs() < before[absent].abs()).all()


def test_the_l2_term_covers_tables_and_projection_and_nothing_else(oracle: Oracle) -> None:
    """Its gradient is l2 times the weight there, and none on attention, quadratic layers and output."""
    gradients = []
    for l2 in (0.0, 0.5):
        Optimiser(oracle.model, oracle.items, learning_rate=0.0, l2=l2, max_grad_norm=1e9).step(oracle.batch)
        gradients.append({name: value.grad.clone() for name, value in oracle.model.named_parameters()})
    for name, value in oracle.model.named_parameters():
        factor = 0.5 if "embedding" in name or name == "projection.weight" else 0.0
        torch.testing.assert_close(gradients[1][name] - gradients[0][name], factor * value.detach())


def test_padding_rows_have_no_gradient(oracle: Oracle) -> None:
    """Level 0, item 0 and tag 0 occur in the batch, and stay zero."""
    assert (oracle.batch.levels == 0).any()
    Optimiser(oracle.model, oracle.items, learning_rate=1e-2, l2=2e-4, max_grad_norm=10).step(oracle.batch)
    for name in ("likes", "views", "item", "tag"):
        assert not getattr(oracle.model, f"{name}_embedding").weight[0].any()


def test_the_learning_rate_may_change_between_steps(oracle: Oracle) -> None:
    """At a learning rate of zero nothing moves."""
    optimiser = Optimiser(oracle.model, oracle.items, learning_rate=1e-2, l2=0.0, max_grad_norm=10)
    optimiser.learning_rate = 0.0
    before = oracle.model.output.weight.detach().clone()
    optimiser.step(oracle.batch)
    assert optimiser.learning_rate == 0.0
    assert torch.equal(oracle.model.output.weight, before)


def test_adam_is_the_published_one(oracle: Oracle) -> None:
    """Betas, epsilon and no weight decay of Adam's own."""
    optimiser = Optimiser(oracle.model, oracle.items, learning_rate=2e-3, l2=2e-4, max_grad_norm=10)
    group = optimiser.adam.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"], group["amsgrad"]) == ((0.9, 0.999), 1e-8, 0, False)
    assert sum(len(group["params"]) for group in optimiser.adam.param_groups) == len(list(oracle.model.parameters()))


def test_a_network_starts_as_published(oracle: Oracle) -> None:
    """Embeddings N(0, 1e-4) with row 0 zero, Xavier normal weights, biases 0, PReLU slopes 0.25."""
    torch.manual_seed(0)
    model = QIN(oracle.model.schema, oracle.model.config)
    assert not model.item_embedding.weight[0].any()
    assert model.item_embedding.weight[1:].std().item() == pytest.approx(1e-4, rel=0.1)
    linear = model.layers[0].linear
    assert linear.weight.std().item() == pytest.approx((2 / (64 + 128)) ** 0.5, rel=0.1)
    assert not linear.bias.any()
    assert not model.output.bias.any()
    assert model.layers[0].activation.weight.item() == 0.25
