from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.oracle import EMBEDDING_FEATURE, Oracle, load_oracle, load_steps
from training.fuxictr import published_names
from training.step import Optimiser, StepResult

Values = NDArray[np.floating]


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    return load_oracle(tmp_path)


def assert_same(ours: torch.Tensor, theirs: Values, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=tolerance)


def test_item_vectors_are_the_published_ones(oracle: Oracle) -> None:
    """Candidates and every item of a history get the vector that the authors' code gives them."""
    history = oracle.batch.history[torch.from_numpy(oracle.mask)]
    assert_same(oracle.model.item_vectors(oracle.items, oracle.batch.candidate), oracle.expected["target_emb"])
    assert_same(oracle.model.item_vectors(oracle.items, history), oracle.expected["sequence_emb"][oracle.mask])


def test_attention_weighs_the_history_as_published(oracle: Oracle) -> None:
    """Weighted by our attention, the published item vectors give the published context."""
    weights_BH = oracle.model.trace(oracle.items, oracle.batch).weights.numpy()
    weighted_BD = np.einsum("bh,bhd->bd", weights_BH, oracle.expected["sequence_emb"])
    context_BC = weighted_BD @ oracle.model.attention.value.weight.detach().numpy().T
    np.testing.assert_allclose(context_BC, oracle.expected["att_context"][:, 0], rtol=0, atol=1e-12)
    assert (weights_BH[~oracle.mask] == 0).all()


def test_every_layer_sees_and_computes_the_published_values(oracle: Oracle) -> None:
    """Pooled history, input, each layer's input and product, log-odds and probability agree to 1e-12."""
    trace, expected = oracle.model.trace(oracle.items, oracle.batch), oracle.expected
    assert_same(trace.target, expected["target_emb"])
    assert_same(trace.pooled, expected["pooling_emb"])
    assert_same(trace.layers[0], expected["x0"])
    for number, layer in enumerate(oracle.model.layers):
        assert_same(trace.layers[number], expected[f"layer{number}_in"])
        assert_same(layer.product(trace.layers[number]), expected[f"layer{number}_prod"])
    assert_same(trace.logit, expected["logit"][:, 0])
    assert_same(oracle.model(oracle.items, oracle.batch), expected["y_pred"][:, 0])


def test_an_empty_history_pools_to_exactly_the_target(oracle: Oracle) -> None:
    """Without history the pooled vector is the target, bit for bit."""
    trace = oracle.model.trace(oracle.items, oracle.batch)
    empty = torch.from_numpy(~oracle.mask.any(axis=1))
    assert empty.any()
    assert torch.equal(trace.pooled[empty], trace.target[empty])


def test_float32_is_as_accurate_as_the_published_float32(tmp_path: Path) -> None:
    """Probabilities in float32 are within 2e-6 of the authors' float32 and of their float64."""
    oracle = load_oracle(tmp_path / "32", torch.float32)
    exact = load_oracle(tmp_path / "64").expected["y_pred"]
    ours = oracle.model(oracle.items, oracle.batch)
    assert ours.dtype == torch.float32
    assert_same(ours, oracle.expected["y_pred"][:, 0], 2e-6)
    assert_same(ours, exact[:, 0], 2e-6)


def test_the_sum_over_rows_may_be_taken_before_or_after_the_product(oracle: Oracle) -> None:
    """With dropout the R rows are computed one by one; without it as one map; a layer gives the same either way."""
    layer, x_BX = oracle.model.layers[0], torch.from_numpy(oracle.expected["layer0_in"])
    layer.train()
    layer.dropout.p = 1e-300  # on, yet it drops nothing
    assert_same(layer.product(x_BX), oracle.expected["layer0_prod"])


@pytest.mark.parametrize(("name", "max_grad_norm"), [("clip10", 10.0), ("clip0.1", 0.1)])
def test_three_steps_are_those_of_the_published_trainer(oracle: Oracle, name: str, max_grad_norm: float) -> None:
    """Losses, L2 terms, gradient norms, first gradients and the weights after three steps agree to 1e-9."""
    expected, names = load_steps(name), published_names(oracle.model.config, EMBEDDING_FEATURE)
    weights = dict(oracle.model.named_parameters())
    optimiser = Optimiser(
        oracle.model.train(), oracle.items, learning_rate=2e-3, l2=2e-4, max_grad_norm=max_grad_norm
    )
    results, clipped_by = [], min(1.0, max_grad_norm / (expected["grad_norm"][0] + 1e-6))  # as torch clips
    for step in range(3):
        results.append(optimiser.step(oracle.batch))
        if step == 0:
            assert_each(names, lambda ours: weights[ours].grad, expected, "grad0/", clipped_by)
    for figure, key in (("loss", "loss"), ("penalty", "reg"), ("grad_norm", "grad_norm")):
        np.testing.assert_allclose(figures(results, figure), expected[key], rtol=1e-9)
    assert_each(names, lambda ours: weights[ours], expected, "state3/")


def figures(results: list[StepResult], name: str) -> list[float]:
    return [float(getattr(result, name)) for result in results]


def assert_each(
    names: dict[str, str],
    value: Callable[[str], torch.Tensor],
    expected: dict[str, Values],
    prefix: str,
    factor: float = 1.0,
) -> None:
    assert {f"{prefix}{theirs}" for theirs in names} == {key for key in expected if key.startswith(prefix)}
    for theirs, ours in names.items():
        wanted = expected[prefix + theirs] * factor
        error = np.abs(value(ours).detach().numpy() - wanted).max() / np.abs(wanted).max()
        assert error < 1e-9, f"{theirs} is off by {error}"
