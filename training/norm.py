"""Batch norm whose statistics are those of the whole batch, however many processes share it.

Shapes: B rows of this process, X width.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`; with several processes, on CPUs too, which `torch.nn.SyncBatchNorm` cannot do."""

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return (B, X) the rows, normalised."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x_BX)
        total = _summed(torch.cat([x_BX.sum(0), x_BX.new_tensor([len(x_BX)])]))
        count, mean_X = total[-1].detach(), total[:-1] / total[-1].detach()
        centred_BX = x_BX - mean_X
        variance_X = _summed(centred_BX.square().sum(0)) / count
        self._note(mean_X, variance_X, count)
        return centred_BX * (self.weight * torch.rsqrt(variance_X + self.eps)) + self.bias

    @torch.no_grad()
    def _note(self, mean_X: Tensor, variance_X: Tensor, count: Tensor) -> None:
        """Move the running statistics, as torch does, by the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_X, self.momentum)
        self.running_var.lerp_(variance_X * (count / (count - 1)), self.momentum)


def _summed(value: Tensor) -> Tensor:
    result: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return result


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of what all of them made of it."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
