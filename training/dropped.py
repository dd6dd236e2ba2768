"""The sum over rows of dropout(h), in one pass over h on a CPU.

Shapes: B rows of a batch, R rows of a quadratic layer, X input width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16
_BLOCK_NUMBERS = 2**18
"""A block's numbers, 1 MiB of float32, are still in the cache when they are read for the second time."""


def dropped_sum(h_BRX: Tensor, dropout: float) -> Tensor:
    """Return (B, X) the sum over r of dropout(h), with its gradient.

    Each number is dropped by itself. On a CPU the probability is `dropout` to the nearest 1 / 65536, and what is kept
    is scaled by exactly what that probability asks for: the expected value is that of h.
    """
    num_levels = round(dropout * _LEVELS)
    if h_BRX.device.type != "cpu" or h_BRX.ndim != 3 or torch.compiler.is_compiling() or num_levels == _LEVELS:
        return F.dropout(h_BRX, dropout).sum(-2)
    result: Tensor = _DroppedSum.apply(h_BRX, num_levels)  # type: ignore[no-untyped-call]
    return result


def _random_levels(shape: torch.Size) -> Tensor:
    """Return int16 numbers, all 2^16 alike, from torch's generator: four from each draw."""
    num_draws = -(-shape.numel() // 4)
    draws = torch.empty(num_draws, dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[: shape.numel()].view(shape)


def _blocks(h_BRX: Tensor) -> list[slice]:
    step = max(_BLOCK_NUMBERS // h_BRX[:1].numel(), 1)
    return [slice(start, start + step) for start in range(0, len(h_BRX), step)]


class _DroppedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_BRX: Tensor, num_levels: int) -> Tensor:
        levels_BRX = _random_levels(h_BRX.shape)
        kept_BRX = torch.empty(h_BRX.shape, dtype=torch.bool)
        sum_BX = h_BRX.new_empty(len(h_BRX), h_BRX.shape[-1])
        for block in _blocks(h_BRX):
            torch.ge(levels_BRX[block], num_levels - _LEVELS // 2, out=kept_BRX[block])
            torch.sum(h_BRX[block] * kept_BRX[block], 1, out=sum_BX[block])
        ctx.save_for_backward(kept_BRX)
        ctx.scale = _LEVELS / (_LEVELS - num_levels)
        return sum_BX.mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept_BRX,) = ctx.saved_tensors
        gradient_B1X = (gradients[0] * ctx.scale).unsqueeze(1)
        gradient_BRX = gradient_B1X.new_empty(kept_BRX.shape)
        for block in _blocks(kept_BRX):
            torch.mul(kept_BRX[block], gradient_B1X[block], out=gradient_BRX[block])
        return gradient_BRX, None
