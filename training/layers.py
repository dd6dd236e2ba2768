"""The layers of QIN (arXiv 2504.17699), as the authors' published code computes them.

Shapes: B rows, H history length, D item width, X input width, R rows of a quadratic layer, n history items in
the batch once padding is dropped.
"""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class RaggedHistory:
    """The real items of a batch's histories as one flat list; padding is not stored.

    A padded slot has a score of zero whatever it holds, so dropping it changes nothing.
    """

    item: Tensor  # (n,) row of each history item in the batch's item vectors
    owner: Tensor  # (n,) ascending: the batch row that each item belongs to
    offsets: Tensor  # (B,) where each batch row's items begin


class SparseTargetAttention(nn.Module):
    """Adaptive sparse target attention: relu instead of softmax, so that items can count for nothing.

    One head, no bias, projections to 2D. With q = W_q t, k = W_k h and v = W_v h the paper (section 3.2) pools
    relu(q k / sqrt(2D)) v over the history, maps the sum by W_o and adds the target. Here both projections of
    the history are moved to the other side of the sum, (t W_q^T) W_k and (sum a h) W_v^T: one D-wide product per
    row instead of one per history item, the same parameters and the same gradients.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 2 * width, bias=False)
        self.key = nn.Linear(width, 2 * width, bias=False)
        self.value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(2 * width, width, bias=False)

    def weights(self, target_BD: Tensor, vectors: Tensor, history: RaggedHistory) -> Tensor:
        """Return (n,) how much each history item counts for its row's target; at least 0, not normalised."""
        scale = 1 / math.sqrt(self.query.out_features)
        direction_BD = F.linear(self.query(target_BD), self.key.weight.T) * scale
        direction_nD = F.embedding(history.owner, direction_BD)
        return F.relu((direction_nD * F.embedding(history.item, vectors)).sum(-1))

    def forward(self, target_BD: Tensor, vectors: Tensor, history: RaggedHistory) -> Tensor:
        """Return (B, D) the pooled history plus the target; exactly the target where the history is empty."""
        weights_n = self.weights(target_BD, vectors, history)
        pooled_BD = F.embedding_bag(history.item, vectors, history.offsets, mode="sum", per_sample_weights=weights_n)
        mapped_BD: Tensor = self.output(self.value(pooled_BD))
        return mapped_BD + target_BD


class QuadraticLayer(nn.Module):
    """One layer of the quadratic network: x + prelu(norm(sum over r of x * h_r)), h = W x + b as R rows of X."""

    def __init__(self, width: int, num_rows: int, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.linear = nn.Linear(width, num_rows * width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(dropout)

    def product(self, x_BX: Tensor) -> Tensor:
        """Return (B, X) the quadratic term before normalisation."""
        if not (self.training and self.dropout.p):
            return x_BX * self._collapsed(x_BX)
        h_BRX: Tensor = self.dropout(self.linear(x_BX)).view(len(x_BX), self.num_rows, -1)
        return x_BX * h_BRX.sum(-2)

    def _collapsed(self, x_BX: Tensor) -> Tensor:
        """Return (B, X) the sum over r of h_r as one product: without dropout the rows are one linear map."""
        weight_RXX = self.linear.weight.view(self.num_rows, -1, x_BX.shape[-1])
        bias_RX = self.linear.bias.view(self.num_rows, -1)
        return F.linear(x_BX, weight_RXX.sum(0), bias_RX.sum(0))

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return (B, X) the layer's output."""
        change_BX: Tensor = self.dropout(self.activation(self.norm(self.product(x_BX))))
        return x_BX + change_BX


def masked_mean(tags_nTE: Tensor) -> Tensor:
    """Return (n, E) the mean over the slots whose embedding is not the zero vector; zero where there are none."""
    count_n1 = (tags_nTE != 0).any(-1).sum(-1, keepdim=True, dtype=tags_nTE.dtype)
    return tags_nTE.sum(-2) / (count_n1 + 1e-12)
