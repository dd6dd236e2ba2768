import pytest
import torch

from training.dropped import dropped_sum


def test_numbers_are_dropped_one_by_one_with_the_given_probability() -> None:
    """Of a million ones 0.9 are kept at dropout 0.1, within six standard errors, and scaled to a mean of 1."""
    torch.manual_seed(1)
    kept = dropped_sum(torch.ones(1000, 1, 1000), 0.1)
    share = (kept > 0).double().mean().item()
    assert share == pytest.approx(0.9, abs=6 * (0.09 / 1e6) ** 0.5)
    torch.testing.assert_close(kept[kept > 0], torch.full_like(kept[kept > 0], 1 / 0.9), rtol=2e-5, atol=0)


def test_rows_and_columns_are_dropped_independently() -> None:
    """The R rows of one input do not share a mask, nor do neighbouring numbers, which come from one random draw."""
    torch.manual_seed(2)
    kept = dropped_sum(torch.ones(2000, 1, 64), 0.5) > 0
    pairs = (kept[:, ::2] == kept[:, 1::2]).double().mean().item()
    assert pairs == pytest.approx(0.5, abs=6 * (0.25 / 64_000) ** 0.5)
    both = dropped_sum(torch.ones(2000, 2, 64), 0.5)
    one_of_two = (both == 2.0).double().mean().item()
    assert one_of_two == pytest.approx(0.5, abs=6 * (0.25 / 128_000) ** 0.5)


@pytest.mark.parametrize("num_rows", [1, 7, 3000])
def test_the_gradient_goes_where_the_sum_came_from(num_rows: int) -> None:
    """What was dropped hears nothing, what was kept hears its scale, over one block of rows or several."""
    h = torch.rand(num_rows, 3, 100, dtype=torch.float64).add_(1).requires_grad_()
    total = dropped_sum(h, 0.3)
    wanted = torch.randn(num_rows, 100, dtype=torch.float64)
    total.backward(wanted)
    assert h.grad is not None
    kept = h.grad != 0
    assert 0 < kept.double().mean() < 1
    scale = 1 / (1 - round(0.3 * 2**16) / 2**16)
    torch.testing.assert_close((h.detach() * kept).sum(1) * scale, total.detach())
    torch.testing.assert_close(h.grad, kept * wanted.unsqueeze(1) * scale)


def test_the_same_seed_drops_the_same_numbers() -> None:
    """What is random follows torch's generator."""
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(dropped_sum(torch.ones(10, 2, 33), 0.1))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
