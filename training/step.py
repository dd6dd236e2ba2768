"""One optimisation step: the published loss, its L2 term, clipping and Adam.

Source: the authors' code for arXiv 2504.17699; the figures that it reports are reported here.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model import QIN, Batch, ItemTable
from training.ranks import ALONE, Ranks


class StepResult(NamedTuple):
    """What one step saw before it changed the weights; scalars on the model's device."""

    loss: Tensor  # the L2 term included
    penalty: Tensor  # the L2 term alone
    grad_norm: Tensor  # of all parameters, before clipping


class Optimiser:
    """Adam on binary cross-entropy plus an L2 term over whole embedding tables and the projection.

    Parameters
    ----------
    model, items
        On the same device.
    learning_rate, l2, max_grad_norm
        The L2 term is l2 / 2 times the squared norm, every row in every step: rows that are absent from a
        batch move too, so sparse updates would be another optimiser.
    ranks
        The processes that each have a share of every batch. All of them take the same step.
    precision
        Of the matrix products and what lies between them; weights, gradients and Adam stay float32.
    """

    def __init__(
        self,
        model: QIN,
        items: ItemTable,
        learning_rate: float,
        l2: float,
        max_grad_norm: float,
        ranks: Ranks = ALONE,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self.model, self.items, self.l2, self.max_grad_norm = model, items, l2, max_grad_norm
        self._ranks, self._precision = ranks, precision
        self._logits = ranks.shared(_Logits(model))
        self.adam = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)

    @property
    def learning_rate(self) -> float:
        """The current learning rate."""
        return float(self.adam.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = value

    def step(self, batch: Batch, num_rows: int | None = None) -> StepResult:
        """Change the weights by one batch of labelled clicks.

        Parameters
        ----------
        batch
            This process's share.
        num_rows
            Of the whole batch; without, `batch` is whole.
        """
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss(batch, num_rows)
        loss.backward()  # type: ignore[no-untyped-call]
        penalty, grad_norm = self.update()
        return StepResult(self._ranks.mean(loss.detach()) + penalty, penalty, grad_norm)

    def loss(self, batch: Batch, num_rows: int | None = None) -> Tensor:
        """Return the cross-entropy of a batch, without the L2 term; its mean over all processes is the batch's."""
        assert batch.label is not None
        with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            logits_B = self._logits(self.items, batch)
        logits_B = logits_B.to(self.model.output.weight.dtype)
        # The same cross-entropy as on the probability, without its loss of digits near 0 and 1.
        loss = F.binary_cross_entropy_with_logits(logits_B, batch.label.to(logits_B.dtype))
        # Shares may be uneven, so that a mean of their means would weigh some rows more.
        return loss if num_rows is None else loss * (len(batch.label) * self._ranks.size / num_rows)

    def update(self) -> tuple[Tensor, Tensor]:
        """Change the weights by the gradients that they have; return the L2 term and the gradients' norm."""
        penalty = self._add_l2_gradient()
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        # A GPU would have to be waited for, only to save the product with one.
        if grad_norm.is_cuda or float(grad_norm) > self.max_grad_norm - 1e-5:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.max_grad_norm, grad_norm, foreach=True)
        self.adam.step()
        return penalty, grad_norm

    @torch.no_grad()
    def _add_l2_gradient(self) -> Tensor:
        """Add the L2 term's gradient, l2 times the weight, and return the term: autograd would copy the tables."""
        weights = self.model.penalised()
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        assert len(gradients) == len(weights)
        torch._foreach_add_(gradients, weights, alpha=self.l2)
        return self.l2 / 2 * self.model.penalty()


class _Logits(nn.Module):
    """What gradients are shared for: they are when `forward` is called on it."""

    def __init__(self, model: QIN) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: ItemTable, batch: Batch) -> Tensor:
        return self.model.logits(items, batch)
