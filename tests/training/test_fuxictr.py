import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.oracle import CHECKPOINT, FEATURE_MAP
from training.checkpoint import load_checkpoint
from training.errors import ForeignCheckpointError, OutputError
from training.fuxictr import import_checkpoint, published_names
from training.model import QIN

TABLES = "embedding_layer.embedding_layer.embedding_layers."
State = dict[str, Any]


def published() -> State:
    return dict(torch.load(CHECKPOINT, weights_only=True))


def feature_map() -> dict[str, Any]:
    return json.loads(FEATURE_MAP.read_text())


def feature(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry[name] for entry in document["features"] if name in entry)


def import_(folder: Path, state: Any = None, document: Any = None, history_length: int = 64) -> Path:
    """Import a state and a feature map that a test has changed."""
    torch.save(published() if state is None else state, folder / "QIN.model")
    (folder / "map.json").write_text(json.dumps(feature_map() if document is None else document))
    import_checkpoint(folder / "QIN.model", folder / "map.json", folder / "out", history_length)
    return folder / "out"


def test_a_published_checkpoint_becomes_one_of_ours(tmp_path: Path) -> None:
    """Sizes from names and shapes, vocabularies from the feature map, every weight under our name."""
    checkpoint = load_checkpoint(import_(tmp_path, history_length=32))
    info, config = checkpoint.info, checkpoint.info.config
    assert (config.embedding_dim, config.num_layers, config.num_rows, config.batch_norm) == (8, 2, 2, False)
    assert (info.features.num_items, info.features.num_tags, info.features.max_tags) == (200, 50, 5)
    assert (info.features.embedding_width, info.features.history_length) == (8, 32)
    assert (info.recipe, info.auc, info.data_fingerprint) == ("published", None, None)
    assert checkpoint.vocabulary.tolist() == list(range(200))
    state = checkpoint.model.state_dict()
    for theirs, ours in published_names(config, "item_emb_d128").items():
        assert torch.equal(state[ours], published()[theirs])


def with_batch_norm(state: State) -> State:
    """Add the names that a published checkpoint with BatchNorm has."""
    generator = torch.Generator().manual_seed(3)
    for layer in range(2):
        for value in ("weight", "bias", "running_mean", "running_var"):
            state[f"qnn.norm.{layer}.{value}"] = torch.rand(64, generator=generator) + 0.5
        state[f"qnn.norm.{layer}.num_batches_tracked"] = torch.tensor(70 + layer)
    return state


def test_batch_norm_is_found_and_its_statistics_kept(tmp_path: Path) -> None:
    """Scale, shift, running mean and variance and the batch count of each layer come over."""
    state = with_batch_norm(published())
    checkpoint = load_checkpoint(import_(tmp_path, state))
    assert checkpoint.info.config.batch_norm
    ours = checkpoint.model.state_dict()
    for layer in range(2):
        assert torch.equal(ours[f"layers.{layer}.norm.running_var"], state[f"qnn.norm.{layer}.running_var"])
        assert torch.equal(ours[f"layers.{layer}.norm.weight"], state[f"qnn.norm.{layer}.weight"])
        assert ours[f"layers.{layer}.norm.num_batches_tracked"] == 70 + layer


def test_the_frozen_embedding_may_have_any_name(tmp_path: Path) -> None:
    """Its type says what it is; the projection goes by its name."""
    state, document = published(), feature_map()
    encoders = "embedding_layer.embedding_layer.feature_encoders."
    state[f"{encoders}clip_vector.weight"] = state.pop(f"{encoders}item_emb_d128.weight")
    document["features"][-1] = {"clip_vector": document["features"][-1]["item_emb_d128"]}
    assert load_checkpoint(import_(tmp_path, state, document)).info.features.embedding_width == 8


def test_a_frozen_embedding_may_be_wider_than_ours(tmp_path: Path) -> None:
    """The projection maps the feature map's width to the tables' width."""
    state, document = published(), feature_map()
    state["embedding_layer.embedding_layer.feature_encoders.item_emb_d128.weight"] = torch.randn(8, 12)
    feature(document, "item_emb_d128")["embedding_dim"] = 12
    assert load_checkpoint(import_(tmp_path, state, document)).model.projection.weight.shape == (8, 12)


class Payload:
    """Code that would run if the pickle were trusted."""

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (Path("owned"),)


def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but tensors is ever unpickled."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ForeignCheckpointError, match=r"QIN\.model is refused: .* holds more than tensors"):
        import_(tmp_path, published() | {"extra": Payload()})
    assert not Path("owned").exists()
    assert not (tmp_path / "out").exists()


def test_values_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    """A harmless number among the weights is still not a state dict."""
    with pytest.raises(ForeignCheckpointError, match="holds more than tensors: epoch, optimizer"):
        import_(tmp_path, published() | {"epoch": 3, "optimizer": {"lr": 0.1}})


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 cut off"])
def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, foreign or truncated: our error, whatever torch raises."""
    (tmp_path / "QIN.model").write_bytes(content)
    with pytest.raises(ForeignCheckpointError, match=r"QIN\.model is"):
        import_checkpoint(tmp_path / "QIN.model", FEATURE_MAP, tmp_path / "out")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    """Half a download is not half a model."""
    (tmp_path / "QIN.model").write_bytes(CHECKPOINT.read_bytes()[:50_000])
    with pytest.raises(ForeignCheckpointError, match=r"QIN\.model is"):
        import_checkpoint(tmp_path / "QIN.model", FEATURE_MAP, tmp_path / "out")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Checkpoint or feature map."""
    with pytest.raises(ForeignCheckpointError, match=r"none\.model cannot be read: No such file"):
        import_checkpoint(tmp_path / "none.model", FEATURE_MAP, tmp_path / "out")
    with pytest.raises(ForeignCheckpointError, match=r"none\.json cannot be read: No such file"):
        import_checkpoint(CHECKPOINT, tmp_path / "none.json", tmp_path / "out")


def test_a_tensor_alone_is_no_state_dict(tmp_path: Path) -> None:
    """The error says what the file holds instead."""
    with pytest.raises(ForeignCheckpointError, match="holds one Tensor, not a state dict"):
        import_(tmp_path, torch.zeros(3))


def without(state: State, name: str) -> State:
    del state[name]
    return state


WRONG_STATES: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (lambda state: without(state, "attention_layers.W_q.weight"), "misses attention_layers.W_q.weight"),
    "missing layer": (lambda state: without(state, "qnn.layer.0.linear.0.weight"), "holds no quadratic layer"),
    "hole": (
        lambda state: state | {"qnn.layer.3.linear.0.weight": state["qnn.layer.0.linear.0.weight"].clone()},
        "has the layers qnn.layer.0, 1, 3; they must count up from 0 by one",
    ),
    "extra": (
        lambda state: state | {"tower.weight": torch.zeros(1), "tower.bias": torch.zeros(1)},
        "also holds tower.bias, tower.weight",
    ),
    "half a norm": (
        lambda state: without(with_batch_norm(state), "qnn.norm.1.running_var"),
        "misses qnn.norm.1.running_var",
    ),
    "wrong shape": (
        lambda state: state | {"attention_layers.W_k.weight": torch.zeros(48, 20)},
        "attention_layers.W_k.weight is (48, 20) where (48, 24) was expected",
    ),
    "other vocabulary": (
        lambda state: state | {f"{TABLES}item_id.weight": torch.zeros(150, 8)},
        f"{TABLES}item_id.weight is (150, 8) where (200, 8) was expected",
    ),
    "other width": (
        lambda state: state | {"qnn.fc.weight": torch.zeros(1, 63)},
        "the input is not 8 embeddings wide",
    ),
    "leading zero": (
        lambda state: state | {"qnn.layer.01.linear.0.weight": torch.zeros(1)},
        "has the layers qnn.layer.0, 1, 01; they must count up",
    ),
    "distant layer": (
        lambda state: state | {"qnn.layer.50000000.linear.0.weight": torch.zeros(1)},
        "has the layers qnn.layer.0, 1, 50000000; they must count up",
    ),
    "endless layer": (
        lambda state: state | {f"qnn.layer.{'9' * 5000}.linear.0.weight": torch.zeros(1)},
        f"has the layers qnn.layer.0, 1, {'9' * 120}...; they must count up",
    ),
    "many names": (
        lambda state: state | {f"extra{number:03}": torch.zeros(1) for number in range(100)},
        "extra039 and 60 more",
    ),
    "other key": (lambda state: {**state, 7: torch.zeros(1)}, "holds a key of type int"),
    "expanded": (
        lambda state: state | {"qnn.fc.bias": torch.zeros(1).expand(1 << 40)},
        "qnn.fc.bias repeats its numbers: the file does not hold all of shape (1099511627776,)",
    ),
    "expanded count": (
        lambda state: with_batch_norm(state) | {"qnn.norm.0.num_batches_tracked": torch.tensor(1).expand(1 << 40)},
        "qnn.norm.0.num_batches_tracked repeats its numbers",
    ),
    "shared": (
        lambda state: state | {"attention_layers.W_k.weight": state["attention_layers.W_q.weight"]},
        "W_k.weight shares its numbers with attention_layers.W_q.weight",
    ),
    "meta": (
        lambda state: state | {"qnn.fc.bias": torch.zeros(1, device="meta")},
        "qnn.fc.bias holds no numbers, it is of the device meta",
    ),
    "sparse": (
        lambda state: state | {"qnn.fc.weight": torch.zeros(1, 64).to_sparse()},
        "qnn.fc.weight is not a plain tensor",
    ),
    "float8": (
        lambda state: state | {"qnn.fc.weight": torch.zeros(1, 64).to(torch.float8_e4m3fn)},
        "qnn.fc.weight holds torch.float8_e4m3fn, not float16, bfloat16, float32 or float64",
    ),
    "complex": (lambda state: state | {"qnn.fc.bias": torch.ones(1) * 1j}, "qnn.fc.bias holds torch.complex64"),
    "count": (
        lambda state: with_batch_norm(state) | {"qnn.norm.0.num_batches_tracked": torch.tensor(1.5)},
        "qnn.norm.0.num_batches_tracked holds torch.float32, not int64",
    ),
    "empty": (
        lambda state: state | {"qnn.fc.weight": torch.zeros(0, 1 << 61)},
        "qnn.fc.weight is empty, of shape (0, 2305843009213693952)",
    ),
    "beyond float32": (
        lambda state: state | {"qnn.fc.bias": torch.tensor([1e300], dtype=torch.float64)},
        "qnn.fc.bias holds numbers that are not finite as float32",
    ),
    "variance": (
        lambda state: with_batch_norm(state) | {"qnn.norm.1.running_var": torch.full((64,), -0.5)},
        "qnn.norm.1.running_var, variances, holds a negative number",
    ),
    "not finite": (lambda state: state | {"qnn.fc.bias": torch.tensor([float("nan")])}, "not finite"),
    "integers": (lambda state: state | {"qnn.fc.bias": torch.tensor([1])}, "qnn.fc.bias holds torch.int64"),
    "padding": (
        lambda state: state | {f"{TABLES}item_tags.weight": torch.ones(50, 8)},
        f"row 0 of {TABLES}item_tags.weight, padding, is not zero",
    ),
}


@pytest.mark.parametrize("case", WRONG_STATES)
def test_weights_that_are_no_qin_are_refused(tmp_path: Path, case: str) -> None:
    """Missing and extra names, wrong shapes and bad numbers are listed; nothing is written."""
    change, message = WRONG_STATES[case]
    with pytest.raises(ForeignCheckpointError, match=re.escape(message)):
        import_(tmp_path, change(published()))
    assert not (tmp_path / "out").exists()


def test_a_distant_layer_is_refused_at_once(tmp_path: Path) -> None:
    """The names up to it, which would take a minute, are never built."""
    started = time.perf_counter()
    with pytest.raises(ForeignCheckpointError, match="must count up"):
        import_(tmp_path, published() | {"qnn.layer.500000000.linear.0.weight": torch.zeros(1)})
    assert time.perf_counter() - started < 5


def test_weights_of_any_float_become_float32(tmp_path: Path) -> None:
    """Half precision and double are numbers too."""
    state = published()
    state["qnn.fc.bias"] = torch.tensor([0.5], dtype=torch.float64)
    state["qnn.activation.0.weight"] = torch.tensor([0.25], dtype=torch.bfloat16)
    model = load_checkpoint(import_(tmp_path, state)).model
    assert (model.output.bias.item(), model.output.bias.dtype) == (0.5, torch.float32)


@pytest.mark.parametrize("error", [AssertionError(), IndexError("list index out of range"), TypeError("no")])
def test_whatever_torch_raises_is_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Damaged bytes break torch in many ways; the message is never empty."""

    def broken(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr("training.fuxictr.torch.load", broken)
    with pytest.raises(ForeignCheckpointError, match=r"not a whole file that torch\.save wrote: \w+"):
        import_checkpoint(CHECKPOINT, FEATURE_MAP, tmp_path / "out")


def test_changed_bytes_of_an_old_file_are_our_error_or_nothing(tmp_path: Path) -> None:
    """One byte changed anywhere in the pickles of torch's old format: an import, or our error, nothing else."""
    path, generator = tmp_path / "QIN.model", np.random.default_rng(1)
    torch.save(published(), path, _use_new_zipfile_serialization=False)
    whole, refused = path.read_bytes(), 0
    for position in generator.integers(0, 4000, 150):
        changed = bytearray(whole)
        changed[position] = generator.integers(256)
        path.write_bytes(changed)
        try:
            import_checkpoint(path, FEATURE_MAP, tmp_path / "out")
        except ForeignCheckpointError:
            refused += 1
    assert refused > 50


def test_an_out_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A file above it is named rather than a traceback shown."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made: Not a directory"):
        import_checkpoint(CHECKPOINT, FEATURE_MAP, tmp_path / "file" / "out")


@pytest.mark.parametrize("history_length", [0, 5000])
def test_a_history_length_that_no_model_has_is_refused(tmp_path: Path, history_length: int) -> None:
    """The message says what it is and what it may be; nothing is written."""
    wanted = f"^history_length cannot be {history_length}: Input should be (greater|less) than or equal to"
    with pytest.raises(ForeignCheckpointError, match=wanted):
        import_(tmp_path, history_length=history_length)
    assert not (tmp_path / "out").exists()


def reorder(document: dict[str, Any]) -> None:
    document["features"][2:4] = document["features"][3:1:-1]


WRONG_MAPS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "order": (reorder, "the features are views_level, likes_level, item_id"),
    "missing": (lambda document: document["features"].pop(2), "the features are views_level, item_id, item_tags"),
    "no features": (lambda document: document.pop("features"), "is not a feature map: features: Field required"),
    "vocabulary": (lambda document: feature(document, "item_id").pop("vocab_size"), "item_id has no vocab_size"),
    "padding": (
        lambda document: feature(document, "item_tags").update(padding_idx=7),
        "item_tags is not a vocabulary",
    ),
    "pooling": (
        lambda document: feature(document, "item_tags").update(feature_encoder="layers.MaskedSumPooling()"),
        "whose mean is taken",
    ),
    "tag slots": (lambda document: feature(document, "item_tags").pop("max_len"), "item_tags has no max_len"),
    "embedding": (
        lambda document: feature(document, "item_emb_d128").update(type="categorical"),
        "a QIN has, in this order, likes_level, views_level, item_id, item_tags, one of type embedding",
    ),
    "many tag slots": (
        lambda document: feature(document, "item_tags").update(max_len=65),
        "map.json: max_tags cannot be 65: Input should be less than or equal to 64",
    ),
    "endless vocabulary": (
        lambda document: feature(document, "item_id").update(vocab_size=1 << 62),
        "item_id.vocab_size: Input should be less than or equal to 2147483647",
    ),
    "type": (lambda document: feature(document, "item_id").update(type="numeric"), "item_id.type"),
}


@pytest.mark.parametrize("case", WRONG_MAPS)
def test_a_feature_map_that_is_no_qins_is_refused(tmp_path: Path, case: str) -> None:
    """Order, names, types and sizes of the features are checked, since the network depends on each."""
    change, message = WRONG_MAPS[case]
    document = feature_map()
    change(document)
    with pytest.raises(ForeignCheckpointError, match=re.escape(message)):
        import_(tmp_path, None, document)


def test_a_vocabulary_of_another_size_than_the_weights_is_named(tmp_path: Path) -> None:
    """The feature map of another data set does not pass."""
    document = feature_map()
    feature(document, "item_tags")["vocab_size"] = 51
    with pytest.raises(ForeignCheckpointError, match=re.escape("item_tags.weight is (50, 8) where (51, 8)")):
        import_(tmp_path, None, document)


def test_an_empty_feature_map_is_refused(tmp_path: Path) -> None:
    """A map of meta features alone is no QIN's."""
    with pytest.raises(ForeignCheckpointError, match="the features are none"):
        import_(tmp_path, None, {"features": [{"user_id": {"type": "meta"}}]})


def test_a_published_network_of_any_size_is_imported(tmp_path: Path) -> None:
    """Four layers of three rows with BatchNorm, as published, score after import as before."""
    torch.manual_seed(0)
    small = load_checkpoint(import_(tmp_path)).info
    config = small.config.model_copy(update={"num_layers": 4, "num_rows": 3, "batch_norm": True})
    model = QIN(small.features, config)
    names = published_names(config, "item_emb_d128")
    other = tmp_path / "other"
    other.mkdir()
    loaded = load_checkpoint(import_(other, {theirs: model.state_dict()[ours] for theirs, ours in names.items()}))
    assert loaded.info.config == config
    for name, tensor in loaded.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), model.state_dict()[name].numpy())
