"""The mean of an item's tag embeddings.

Shapes: n items, T tag slots, E width of the embedding, N rows of the table.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_of_tags(table_NE: Tensor, tags_nT: Tensor) -> Tensor:
    """Return (n, E) the mean of each item's rows of a table that are not the zero vector; zero where there are none.

    Row 0, an empty slot, is the zero vector and has no gradient.
    """
    stands_N = (table_NE != 0).any(-1)
    stands_N[0] = False
    count_n1 = stands_N[tags_nT].sum(-1, keepdim=True, dtype=table_NE.dtype)
    return _sum_of_tags(table_NE, tags_nT) / (count_n1 + 1e-12)


def _sum_of_tags(table_NE: Tensor, tags_nT: Tensor) -> Tensor:
    if table_NE.device.type == "cpu":
        result: Tensor = _SumOfTags.apply(table_NE, tags_nT)  # type: ignore[no-untyped-call]
        return result
    return F.embedding_bag(tags_nT, table_NE, mode="sum", padding_idx=0)


class _SumOfTags(torch.autograd.Function):
    """Its gradient is a sum of rows too, once the slots are sorted by tag; torch's own adds them one by one."""

    @staticmethod
    def forward(ctx: Any, table_NE: Tensor, tags_nT: Tensor) -> Tensor:
        ctx.save_for_backward(tags_nT)
        ctx.num_tags = len(table_NE)
        return F.embedding_bag(tags_nT, table_NE, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (tags_nT,) = ctx.saved_tensors
        item, slot = tags_nT.nonzero(as_tuple=True)
        tags, order = torch.sort(tags_nT[item, slot], stable=True)
        count_N = torch.bincount(tags, minlength=ctx.num_tags)
        return F.embedding_bag(item[order], gradients[0].contiguous(), count_N.cumsum(0) - count_N, mode="sum"), None
