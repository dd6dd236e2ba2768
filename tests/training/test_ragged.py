import pytest
import torch

from training.ragged import RaggedHistory, attend, attention_weights

NUM_ROWS, NUM_ITEMS, WIDTH = 30, 17, 12


def histories(lengths: list[int]) -> RaggedHistory:
    """Return histories of random items; one that is long enough repeats some."""
    count = torch.tensor(lengths)
    item = torch.randint(0, NUM_ITEMS, (int(count.sum()),), generator=torch.Generator().manual_seed(3))
    return RaggedHistory(item, torch.arange(len(count)).repeat_interleave(count), count.cumsum(0) - count)


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(NUM_ROWS, WIDTH, generator=generator, dtype=torch.float64)
    return direction, torch.randn(NUM_ITEMS, WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    "lengths", [[row % 25 for row in range(NUM_ROWS)], [0] * (NUM_ROWS - 1) + [3], [0, *[40] * (NUM_ROWS - 2), 0]]
)
def test_the_pooled_history_and_its_gradients_are_those_of_the_plain_sum(lengths: list[int]) -> None:
    """relu(direction . item) item, summed, histories empty, short, repeating or longer than all items."""
    history, (direction, vectors) = histories(lengths), operands()
    wanted = torch.randn(NUM_ROWS, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    ours = [value.clone().requires_grad_() for value in (direction, vectors)]
    plain = [value.clone().requires_grad_() for value in (direction, vectors)]
    pooled = attend(*ours, history)
    pooled.backward(wanted)
    items = plain[1][history.item]
    weights = torch.relu((plain[0][history.owner] * items).sum(-1, keepdim=True))
    expected = torch.zeros_like(direction).index_add(0, history.owner, weights * items)
    expected.backward(wanted)
    torch.testing.assert_close(pooled, expected)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_no_history_at_all_pools_to_zero_and_still_has_gradients() -> None:
    """A batch of new users is a batch like another: every parameter takes part, as shared gradients need."""
    history, (direction, vectors) = histories([0] * NUM_ROWS), operands()
    pooled = attend(direction.requires_grad_(), vectors.requires_grad_(), history)
    pooled.sum().backward()
    assert not pooled.any()
    assert direction.grad is not None
    assert not direction.grad.any()
    assert vectors.grad is not None


def test_weights_are_not_negative() -> None:
    """Some items count for nothing, some do not."""
    weights = attention_weights(*operands(), histories([9] * NUM_ROWS))
    assert (weights == 0).any()
    assert (weights > 0).any()
    assert (weights >= 0).all()
