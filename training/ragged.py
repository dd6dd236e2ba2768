"""Attention over histories without padding: weights by relu, and the weighted sum of item vectors.

Shapes: B rows, D item width, U distinct items of the batch, n history items of the batch.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RaggedHistory:
    """The real items of a batch's histories as one flat list; padding is not stored.

    A padded slot has a score of zero whatever it holds, so dropping it changes nothing.
    """

    item: Tensor  # (n,) row of each history item in the batch's item vectors
    owner: Tensor  # (n,) ascending: the batch row that each item belongs to
    offsets: Tensor  # (B,) where each batch row's items begin


def attention_weights(direction_BD: Tensor, vectors_UD: Tensor, history: RaggedHistory) -> Tensor:
    """Return (n,) relu of each history item's product with its row's direction."""
    direction_nD = F.embedding(history.owner, direction_BD)
    return F.relu((direction_nD * F.embedding(history.item, vectors_UD)).sum(-1))


def attend(direction_BD: Tensor, vectors_UD: Tensor, history: RaggedHistory) -> Tensor:
    """Return (B, D) the sum of each row's history items by their weights; zero where there are none.

    On a CPU neither pass ever holds a vector per history item: n x D numbers would be the most that training stores.
    """
    if vectors_UD.device.type == "cpu" and len(history.item):
        direction_BD = direction_BD.to(vectors_UD.dtype)
        pooled: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            direction_BD, vectors_UD, history.item, history.owner, history.offsets
        )
        return pooled
    weights_n = attention_weights(direction_BD, vectors_UD, history)
    return _weighted_sum(history.item, vectors_UD, history.offsets, weights_n.to(vectors_UD.dtype))


def _weighted_sum(rows: Tensor, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(rows, values, offsets, mode="sum", per_sample_weights=weights)


def _products(left_BD: Tensor, right_UD: Tensor, item_n: Tensor, offsets_B: Tensor) -> Tensor:
    """Return (n,) the product of each history item's vector with its row's; a product of matrices where it counts."""
    end = offsets_B.new_full((1,), len(item_n))
    if len(item_n) > len(left_BD) * len(right_UD):
        # Histories that repeat themselves: more products than the sparse form can hold, and fewer to compute at once.
        owner_n = torch.repeat_interleave(torch.cat([offsets_B, end]).diff())
        return (left_BD @ right_UD.T)[owner_n, item_n]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        pattern = torch.sparse_csr_tensor(
            torch.cat([offsets_B, end]),
            item_n,
            right_UD.new_zeros(len(item_n)),
            (len(left_BD), len(right_UD)),
            check_invariants=False,
        )
    products: Tensor = torch.sparse.sampled_addmm(pattern, left_BD, right_UD.T, beta=0.0).values()
    return products


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, direction_BD: Tensor, vectors_UD: Tensor, item_n: Tensor, owner_n: Tensor, offsets_B: Tensor
    ) -> Tensor:
        weights_n = _products(direction_BD, vectors_UD, item_n, offsets_B).relu_()
        ctx.save_for_backward(direction_BD, vectors_UD, item_n, owner_n, offsets_B, weights_n)
        return _weighted_sum(item_n, vectors_UD, offsets_B, weights_n)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        pooled_BD = gradients[0].contiguous()
        direction_BD, vectors_UD, item_n, owner_n, offsets_B, weights_n = ctx.saved_tensors
        scores_n = _products(pooled_BD, vectors_UD, item_n, offsets_B) * (weights_n > 0)
        for_direction_BD = _weighted_sum(item_n, vectors_UD, offsets_B, scores_n)
        # Of an item's vector: from each row that holds it, the row's pooled gradient by the weight and its direction
        # by the score's gradient. Sorted by item that is a weighted sum once more.
        order_n = torch.sort(item_n, stable=True).indices
        count_U = torch.bincount(item_n, minlength=len(vectors_UD))
        owner_n = owner_n[order_n]
        rows = torch.stack([owner_n, owner_n + len(pooled_BD)], 1).flatten()
        weights = torch.stack([weights_n, scores_n], 1)[order_n].flatten()
        sources = torch.cat([pooled_BD, direction_BD])
        for_vectors_UD = _weighted_sum(rows, sources, 2 * (count_U.cumsum(0) - count_U), weights)
        return for_direction_BD, for_vectors_UD, None, None, None
