import torch

from training.tags import mean_of_tags


def test_the_mean_is_over_tags_that_are_there() -> None:
    """A repeated tag counts twice, padding not at all, and no tag at all gives zero and not NaN."""
    table = torch.tensor([[0.0, 0.0], [2.0, 4.0], [8.0, 0.0]])
    tags = torch.tensor([[1, 1, 2], [0, 1, 0], [0, 0, 0]])
    torch.testing.assert_close(mean_of_tags(table, tags), torch.tensor([[4.0, 8 / 3], [2.0, 4.0], [0.0, 0.0]]))


def test_a_tag_whose_embedding_is_the_zero_vector_does_not_count() -> None:
    """As published: what counts is the embedding, not the tag's number."""
    table = torch.tensor([[0.0, 0.0], [2.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(mean_of_tags(table, torch.tensor([[1, 2]])), torch.tensor([[2.0, 4.0]]))


def test_the_gradient_is_that_of_the_slots_one_by_one() -> None:
    """Each tag hears from every slot that holds it; row 0 and tags that no item has hear nothing."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    table[0] = 0
    tags = torch.randint(0, 30, (200, 5), generator=generator)
    tags[::3] = 0
    wanted = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    ours, plain = table.clone().requires_grad_(), table.clone().requires_grad_()
    mean_of_tags(ours, tags).backward(wanted)
    slots = torch.nn.functional.embedding(tags, plain, padding_idx=0)
    (slots.sum(1) / ((slots != 0).any(-1).sum(1, keepdim=True) + 1e-12)).backward(wanted)
    torch.testing.assert_close(ours.grad, plain.grad)
    assert ours.grad is not None
    assert not ours.grad[0].any()
    assert not ours.grad[30:].any()
