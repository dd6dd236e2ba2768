from pathlib import Path

import pytest
import torch

from tests.training.clicks import small_recipe
from training.checkpoint import load_checkpoint
from training.trainer import train


@pytest.mark.parametrize("dropout", ["0", "0.1"])
def test_products_in_bfloat16_learn_what_float32_learns(clicks: Path, tmp_path: Path, dropout: str) -> None:
    """Nearly the same AUC by other weights, which are kept in float32."""
    exact = train(clicks, tmp_path / "float32", small_recipe(f"dropout={dropout}"))
    rounded = train(clicks, tmp_path / "bfloat16", small_recipe(f"dropout={dropout}", "precision=bfloat16"))
    assert rounded.auc == pytest.approx(exact.auc, abs=0.03)
    weights = load_checkpoint(tmp_path / "bfloat16").model.state_dict()
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    assert not torch.equal(weights["output.weight"], load_checkpoint(tmp_path / "float32").model.output.weight)
