"""The layers of QIN (arXiv 2504.17699), as the authors' published code computes them.

Shapes: B rows, H history length, D item width, X input width, R rows of a quadratic layer, U distinct items
of the batch, n its history items once padding is dropped.
"""

import math

from torch import Tensor, nn

from training.dropped import dropped_sum
from training.norm import BatchNorm
from training.products import linear
from training.ragged import RaggedHistory, attend, attention_weights


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

    def _direction(self, target_BD: Tensor) -> Tensor:
        """Return (B, D) what a history item's vector is multiplied by, to give its score for the row's target."""
        scale = 1 / math.sqrt(self.query.out_features)
        return linear(linear(target_BD, self.query.weight), self.key.weight.T) * scale

    def weights(self, target_BD: Tensor, vectors_UD: Tensor, history: RaggedHistory) -> Tensor:
        """Return (n,) how much each history item counts for its row's target; at least 0, not normalised."""
        return attention_weights(self._direction(target_BD), vectors_UD, history)

    def forward(self, target_BD: Tensor, vectors_UD: Tensor, history: RaggedHistory) -> Tensor:
        """Return (B, D) the pooled history plus the target; exactly the target where the history is empty."""
        pooled_BD = attend(self._direction(target_BD), vectors_UD, history)
        return linear(linear(pooled_BD, self.value.weight), self.output.weight) + target_BD


class QuadraticLayer(nn.Module):
    """One layer of the quadratic network: x + prelu(norm(sum over r of x * h_r)), h = W x + b as R rows of X."""

    def __init__(self, width: int, num_rows: int, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.linear = nn.Linear(width, num_rows * width)
        self.norm = BatchNorm(width) if batch_norm else nn.Identity()
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(dropout)

    def product(self, x_BX: Tensor) -> Tensor:
        """Return (B, X) the quadratic term before normalisation."""
        if not (self.training and self.dropout.p):
            return x_BX * self._collapsed(x_BX)
        h_BRX = linear(x_BX, self.linear.weight, self.linear.bias).view(len(x_BX), self.num_rows, -1)
        return x_BX * dropped_sum(h_BRX, self.dropout.p)

    def _collapsed(self, x_BX: Tensor) -> Tensor:
        """Return (B, X) the sum over r of h_r as one product: without dropout the rows are one linear map."""
        weight_RXX = self.linear.weight.view(self.num_rows, -1, x_BX.shape[-1])
        bias_RX = self.linear.bias.view(self.num_rows, -1)
        return linear(x_BX, weight_RXX.sum(0), bias_RX.sum(0))

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return (B, X) the layer's output."""
        change_BX: Tensor = self.dropout(self.activation(self.norm(self.product(x_BX))))
        return x_BX + change_BX
