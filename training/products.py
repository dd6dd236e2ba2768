"""Matrix products on the CPU by oneDNN, which torch carries but asks for lower precisions only.

torch computes float32 products on a CPU with MKL, which on other processors than Intel's uses half of what AVX-512
gives. oneDNN's product of the same numbers, in float32 throughout, was twice as fast there.

Only for products whose number of rows seldom changes, such as that of a batch: oneDNN keeps code and memory for each
of the last 1,024 sizes that it met.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HAS_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_FEW_MULTIPLY_ADDS = 2**20
"""Below this many the work around a product costs more than it saves."""


def linear(x_nI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return (n, O) what `torch.nn.functional.linear` does, by the faster library, with the same gradients."""
    if not _suits_onednn(x_nI, weight_OI):
        return F.linear(x_nI, weight_OI, bias_O)
    result: Tensor = _OneDnnLinear.apply(x_nI, weight_OI, bias_O)  # type: ignore[no-untyped-call]
    return result


def _suits_onednn(x_nI: Tensor, weight_OI: Tensor) -> bool:
    return (
        HAS_ONEDNN
        and x_nI.dtype == weight_OI.dtype == torch.float32
        and x_nI.device.type == "cpu"
        and x_nI.ndim == 2
        and len(x_nI) * weight_OI.numel() >= _FEW_MULTIPLY_ADDS
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _product(x_nI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x_nI, weight_OI, bias_O, "none", [], "")
    return result


def _weight_gradient(gradient_nO: Tensor, x_nI: Tensor) -> Tensor:
    # Few weights under long sums leave oneDNN nothing to share out between threads.
    if len(x_nI) > gradient_nO.shape[1] * x_nI.shape[1]:
        return gradient_nO.T @ x_nI
    return _product(gradient_nO.T, x_nI.T)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_nI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_nI, weight_OI)
        return _product(x_nI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient_nO,) = gradients
        x_nI, weight_OI = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            _product(gradient_nO, weight_OI.T) if for_x else None,
            _weight_gradient(gradient_nO, x_nI) if for_weight else None,
            gradient_nO.sum(0) if for_bias else None,
        )
