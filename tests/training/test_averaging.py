from pathlib import Path

import pytest
import torch

from contract.schema import Schema
from tests.training.clicks import small_recipe
from training.averaging import WeightAverage
from training.checkpoint import load_checkpoint
from training.model import QIN, ModelConfig
from training.resume import STATE
from training.tensorfile import read_tensors
from training.trainer import train


def small_model() -> QIN:
    schema = Schema(num_items=5, num_tags=4, max_tags=2, embedding_width=3, history_length=2)
    return QIN(schema, ModelConfig(embedding_dim=2, num_layers=1, num_rows=2))


def change(model: QIN, by: float) -> None:
    """Move every weight and every statistic."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]:
            tensor.add_(by)


def test_the_average_follows_weights_and_statistics_by_its_decay() -> None:
    """It starts at the weights of the first step, forgets them quickly at first, and then keeps `decay` of itself."""
    model = small_model()
    average = WeightAverage(model, decay=0.3)
    change(model, 1.0)
    average.update()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(3):
        change(model, 10.0)
        average.update()
    # Decays min(0.3, 2/11), min(0.3, 3/12) and min(0.3, 4/13): what is left of 10, 20 and 30.
    moved = 0.0
    for position, decay in enumerate((2 / 11, 3 / 12, 0.3), start=1):
        moved = decay * moved + (1 - decay) * 10 * position
    for name, tensor in average.model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, before[name] + moved, rtol=1e-5, atol=1e-5, msg=name)


def test_taking_the_average_does_not_change_what_is_trained() -> None:
    """The trained weights are not those of the average, nor tied to them."""
    model = small_model()
    average = WeightAverage(model, decay=0.9)
    average.update()
    change(model, 1.0)
    assert not torch.equal(average.model.output.weight, model.output.weight)


def test_the_averaged_weights_are_the_ones_kept(clicks: Path, tmp_path: Path) -> None:
    """The checkpoint holds the average, the state to resume from the last weights too."""
    train(clicks, tmp_path, small_recipe("averaging=0.9", "epochs=1"))
    kept = load_checkpoint(tmp_path)
    state, _ = read_tensors(tmp_path / STATE)
    assert kept.info.settings["averaging"] == 0.9
    for name in ("item_embedding.weight", "layers.0.norm.running_var", "output.weight"):
        assert torch.equal(kept.model.state_dict()[name], state[f"average.module.{name}"])
        assert not torch.equal(kept.model.state_dict()[name], state[f"model.{name}"])


def test_averaging_leaves_the_trained_weights_alone(clicks: Path, tmp_path: Path) -> None:
    """Two runs that differ in averaging alone train the same weights."""
    train(clicks, tmp_path / "with", small_recipe("averaging=0.9", "epochs=1"))
    train(clicks, tmp_path / "without", small_recipe("epochs=1"))
    first, second = (read_tensors(tmp_path / name / STATE)[0] for name in ("with", "without"))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_a_resumed_run_averages_as_an_unbroken_one(clicks: Path, tmp_path: Path, decay: float) -> None:
    """One epoch and one more, resumed, end with the same average as two."""
    train(clicks, tmp_path / "whole", small_recipe(f"averaging={decay}", "epochs=2"))
    train(clicks, tmp_path / "broken", small_recipe(f"averaging={decay}", "epochs=1"))
    train(clicks, tmp_path / "broken", small_recipe(f"averaging={decay}", "epochs=2"), resume=True)
    whole, broken = (read_tensors(tmp_path / name / STATE)[0] for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
