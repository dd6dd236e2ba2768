import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from contract.schema import Schema
from training.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from training.errors import CheckpointError
from training.model import QIN, ModelConfig
from training.tensorfile import write_tensors

SCHEMA = Schema(num_items=4, num_tags=3, max_tags=2, embedding_width=3, history_length=8)
CONFIG = ModelConfig(embedding_dim=2, num_layers=1, num_rows=2)
VOCABULARY = np.array([0, 5, 6, 2**62])
INFO = CheckpointInfo(features=SCHEMA, config=CONFIG, recipe="tiny", settings={"l2": 1e-6, "device": "cpu"}, auc=0.75)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, QIN]:
    """Return a checkpoint's folder and the model in it."""
    torch.manual_seed(0)
    model = QIN(SCHEMA, CONFIG)
    save_checkpoint(tmp_path, INFO, model.state_dict(), VOCABULARY)
    return tmp_path, model


def test_what_is_saved_is_loaded(saved: tuple[Path, QIN]) -> None:
    """Weights bit for bit, vocabulary and description; the model in float32, ready to evaluate."""
    folder, model = saved
    checkpoint = load_checkpoint(folder)
    assert checkpoint.info == INFO
    assert checkpoint.vocabulary.tolist() == VOCABULARY.tolist()
    assert not checkpoint.model.training
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert tensor.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32)


def test_the_description_is_there_for_people(saved: tuple[Path, QIN]) -> None:
    """checkpoint.json says what the weights are."""
    described = json.loads((saved[0] / "checkpoint.json").read_text())
    assert (described["recipe"], described["auc"], described["features"]["num_items"]) == ("tiny", 0.75, 4)


def test_a_newer_checkpoint_takes_the_older_ones_place(saved: tuple[Path, QIN]) -> None:
    """Nothing of the old one is left, and no temporary file."""
    folder, model = saved
    save_checkpoint(folder, INFO.model_copy(update={"auc": 0.8}), model.state_dict(), VOCABULARY)
    assert load_checkpoint(folder).info.auc == 0.8
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.json", "model.safetensors"]


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_crash_while_saving_leaves_a_whole_checkpoint(
    saved: tuple[Path, QIN], monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    """Broken off before either file took its place: the old one or the new one is read, never a mixture."""
    folder, model = saved
    replace, calls = Path.replace, []

    def crash(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing_call:
            raise OSError("no space left")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", crash)
    newer = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(folder, INFO.model_copy(update={"auc": 0.8}), newer, VOCABULARY)
    checkpoint = load_checkpoint(folder)
    is_newer = not checkpoint.model.output.weight.any()
    assert is_newer == (failing_call == 2)
    assert checkpoint.info.auc == (0.8 if is_newer else 0.75)
    assert not list(folder.glob(".*"))


def test_a_checkpoint_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is synced before its rename, and the folder after it."""
    events: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), sync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append("rename"), replace(path, to))[1])
    save_checkpoint(tmp_path, INFO, QIN(SCHEMA, CONFIG).state_dict(), VOCABULARY)
    assert events == ["sync", "rename", "sync"] * 2


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    """The error says which file is not there."""
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not exist"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_checkpoint_is_refused(saved: tuple[Path, QIN], kept: int) -> None:
    """Wherever it was cut off."""
    path = saved[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cannot be read, it may be truncated"):
        load_checkpoint(saved[0])


def test_a_changed_byte_is_found(saved: tuple[Path, QIN]) -> None:
    """Weights of the right shape that are not those that were saved are refused."""
    path = saved[0] / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="contents have changed"):
        load_checkpoint(saved[0])


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    """A file without our description is not guessed at."""
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not one that training wrote"):
        load_checkpoint(tmp_path)


def test_weights_of_other_shapes_than_stated_are_refused(saved: tuple[Path, QIN]) -> None:
    """Description and tensors must fit."""
    folder, model = saved
    wrong = {name: tensor for name, tensor in model.state_dict().items() if name != "output.bias"}
    wrong["output.weight"] = torch.zeros(1, 3)
    save_checkpoint(folder, INFO, wrong, VOCABULARY)
    with pytest.raises(CheckpointError, match=r"does not fit the sizes that it states(.|\n)*output\.bias") as raised:
        load_checkpoint(folder)
    assert "output.weight" in str(raised.value)


def test_a_vocabulary_of_another_length_is_refused(saved: tuple[Path, QIN]) -> None:
    """There is one item id for each vocabulary row."""
    folder, model = saved
    tensors = {**model.state_dict(), "vocabulary": torch.arange(3)}
    write_tensors(folder / "model.safetensors", tensors, INFO.model_dump_json())
    with pytest.raises(CheckpointError, match="item ids of 4 vocabulary rows"):
        load_checkpoint(folder)


def test_another_format_is_refused(saved: tuple[Path, QIN]) -> None:
    """A description that this version does not know is named, not half read."""
    folder, model = saved
    description = INFO.model_dump(mode="json") | {"format": 2}
    write_tensors(folder / "model.safetensors", model.state_dict(), json.dumps(description))
    with pytest.raises(CheckpointError, match="description is not valid: format"):
        load_checkpoint(folder)
