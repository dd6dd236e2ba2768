import pytest
import torch
from torch.nn.functional import linear as torchs_linear

from training.products import HAS_ONEDNN, linear

METHODS = ((linear, torch.float32), (torchs_linear, torch.float32), (torchs_linear, torch.float64))


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
@pytest.mark.parametrize(("num_rows", "width", "outputs"), [(300, 160, 320), (90_000, 16, 24), (4, 8, 8)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_products_and_gradients_are_those_of_torch(num_rows: int, width: int, outputs: int, with_bias: bool) -> None:
    """As near to the exact value as torch's own float32: large and small, with many rows, with and without bias."""
    generator = torch.Generator().manual_seed(5)
    x, weight, bias, gradient = (
        torch.randn(*shape, generator=generator)
        for shape in ((num_rows, width), (outputs, width), (outputs,), (num_rows, outputs))
    )
    operands = [x, weight, bias] if with_bias else [x, weight]
    ours, torchs, exact = (run(function, operands, gradient, dtype) for function, dtype in METHODS)
    for one, other, wanted in zip(ours, torchs, exact, strict=True):
        error = (other - wanted).abs().max()
        assert (one - wanted).abs().max() <= 3 * error + 1e-6 * wanted.abs().max()


def run(function, operands, gradient, dtype) -> list[torch.Tensor]:
    """Return the product and the gradient of each operand."""
    leaves = [value.detach().to(dtype).clone().requires_grad_() for value in operands]
    result = function(*leaves)
    result.backward(gradient.to(dtype))
    return [result.detach().double(), *(leaf.grad.double() for leaf in leaves)]


def test_float64_stays_float64() -> None:
    """Where oneDNN has no product of that type, torch's own is taken."""
    x = torch.randn(400, 100, dtype=torch.float64)
    assert torch.equal(linear(x, x[:100]), torchs_linear(x, x[:100]))
