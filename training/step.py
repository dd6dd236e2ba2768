"""One optimisation step: the published loss, its L2 term, clipping and Adam.

Source: the authors' code for arXiv 2504.17699; the figures that it reports are reported here.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model import QIN, Batch, ItemTable


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
    """

    def __init__(self, model: QIN, items: ItemTable, learning_rate: float, l2: float, max_grad_norm: float) -> None:
        self.model, self.items, self.l2, self.max_grad_norm = model, items, l2, max_grad_norm
        self.adam = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)

    @property
    def learning_rate(self) -> float:
        """The current learning rate."""
        return float(self.adam.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = value

    def step(self, batch: Batch) -> StepResult:
        """Change the weights by one batch of labelled clicks."""
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        penalty, grad_norm = self.update()
        return StepResult(loss.detach() + penalty, penalty, grad_norm)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of a batch, without the L2 term."""
        assert batch.label is not None
        # The same cross-entropy as on the probability, without its loss of digits near 0 and 1.
        logits_B = self.model.logits(self.items, batch)
        return F.binary_cross_entropy_with_logits(logits_B, batch.label.to(logits_B.dtype))

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
