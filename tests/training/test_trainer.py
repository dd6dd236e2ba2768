import json
import pkgutil
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.clicks import small_recipe, write_data
from training.checkpoint import load_checkpoint
from training.dataset import read_dataset
from training.errors import CheckpointError, DataError, DivergenceError, OutputError, RecipeError, ResumeError
from training.evaluate import score_checkpoint
from training.journal import read_journal
from training.metrics import auc, log_loss
from training.model import QIN
from training.recipes import get_recipe
from training.resume import STATE
from training.run import Run
from training.tensorfile import read_tensors
from training.trainer import TrainingSummary, train


class Interruption(BaseException):
    """Stands for Ctrl-C."""


@pytest.fixture(scope="session")
def trained(clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingSummary]:
    """Return the folder of an unbroken run of three epochs, which no test may change, and its summary."""
    out = tmp_path_factory.mktemp("run")
    return out, train(clicks, out, small_recipe())


def test_a_run_learns_what_is_there_to_learn(trained: tuple[Path, TrainingSummary]) -> None:
    """Users like one topic: far better than chance, and no better than the noise allows."""
    summary = trained[1]
    assert 0.7 < summary.auc < 0.97
    assert (summary.epochs, summary.checkpoint) == (3, trained[0])
    assert summary.rows_per_s > 100


def test_the_checkpoint_has_the_figures_that_it_states(clicks: Path, trained: tuple[Path, TrainingSummary]) -> None:
    """Scored again from disk, the best epoch's weights have the reported AUC and log loss."""
    out, summary = trained
    scores, labels = score_checkpoint(out, clicks / "valid.parquet", clicks / "item_info.parquet", device="cpu")
    info = load_checkpoint(out).info
    assert labels is not None
    assert auc(labels, scores) == pytest.approx(summary.auc, abs=1e-6) == pytest.approx(info.auc, abs=1e-6)
    assert log_loss(labels, scores) == pytest.approx(summary.log_loss, abs=1e-6)
    assert (info.recipe, info.epoch, info.settings["embedding_dim"]) == ("small", summary.best_epoch, 8)
    assert info.data_fingerprint == read_dataset(clicks, 8).fingerprint


def test_a_run_writes_json_lines_and_curves(trained: tuple[Path, TrainingSummary]) -> None:
    """One line of JSON an epoch, TensorBoard beside it, and a description for people."""
    out, summary = trained
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert max(line["auc"] for line in lines) == summary.auc
    assert all(line["rows_per_s"] > 0 and line["loss"] > line["penalty"] > 0 for line in lines)
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    assert json.loads((out / "checkpoint.json").read_text())["auc"] == summary.auc


def test_the_curves_hold_every_figure_of_every_epoch(trained: tuple[Path, TrainingSummary]) -> None:
    """What TensorBoard shows is what the lines of JSON say."""
    curves = EventAccumulator(str(trained[0] / "tensorboard")).Reload()
    records = read_journal(trained[0])
    for tag, values in (
        ("valid/auc", [record.auc for record in records]),
        ("valid/log_loss", [record.log_loss for record in records]),
        ("train/loss", [record.loss for record in records]),
        ("train/rows_per_s", [record.rows_per_s for record in records]),
    ):
        events = curves.Scalars(tag)
        assert [event.step for event in events] == [1, 2, 3]
        assert [event.value for event in events] == pytest.approx(values, rel=1e-6)


def test_a_line_that_a_crash_cut_short_does_not_count(clicks: Path, tmp_path: Path) -> None:
    """The run goes on, and its journal is whole again."""
    train(clicks, tmp_path, small_recipe("epochs=1"))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch":2,"lo')
    train(clicks, tmp_path, small_recipe("epochs=2"), resume=True)
    assert [record.epoch for record in read_journal(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json\n", "line 2 is not the record of an epoch: top level: Invalid JSON"),
        (b'{"epoch": 2}\n', "line 2 is not the record of an epoch: loss: Field required"),
        (b"\xff\xfe\n", "line 2 is not the record of an epoch: top level: Invalid JSON"),
    ],
)
def test_a_line_that_is_no_record_is_named(clicks: Path, tmp_path: Path, line: bytes, message: str) -> None:
    """A whole line that no crash explains is not dropped unseen, and the run is left as it was."""
    train(clicks, tmp_path, small_recipe("epochs=1"))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ResumeError, match=message):
        train(clicks, tmp_path, small_recipe("epochs=2"), resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("num_rows", [65, 129])
def test_a_lone_last_row_is_trained_on(own_clicks: Path, tmp_path: Path, num_rows: int) -> None:
    """One row more than whole batches does not break batch norm."""
    keep_rows(own_clicks, num_rows)
    assert train(own_clicks, tmp_path / "run", small_recipe("epochs=1", "batch_size=64")).epochs == 1


def keep_rows(folder: Path, num_rows: int) -> None:
    """Leave only the first training rows."""
    pq.write_table(pq.read_table(folder / "train.parquet").slice(0, num_rows), folder / "train.parquet")


def test_one_row_cannot_be_trained_on_with_batch_norm(own_clicks: Path, tmp_path: Path) -> None:
    """It is refused before the first epoch; without batch norm one row will do."""
    keep_rows(own_clicks, 1)
    with pytest.raises(DataError, match="batch norm needs two"):
        train(own_clicks, tmp_path / "run", small_recipe("epochs=1"))
    assert train(own_clicks, tmp_path / "run", small_recipe("epochs=1", "batch_norm=false")).epochs == 1


def test_batches_of_one_row_are_refused_with_batch_norm(own_clicks: Path, tmp_path: Path) -> None:
    """The error names the setting; without batch norm it is a batch size like another."""
    keep_rows(own_clicks, 3)
    with pytest.raises(RecipeError, match="batch_size=1 cannot be trained with batch norm"):
        train(own_clicks, tmp_path / "run", small_recipe("epochs=1", "batch_size=1"))
    assert (
        train(own_clicks, tmp_path / "run", small_recipe("epochs=1", "batch_size=1", "batch_norm=false")).epochs == 1
    )


@pytest.mark.parametrize("below", ["", "run"])
def test_an_out_folder_that_cannot_be_made_is_refused(clicks: Path, tmp_path: Path, below: str) -> None:
    """A file in its place or above it: the error names the folder, and the data need not be read first."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"the folder .*file.* cannot be made: (File exists|Not a directory)"):
        train(tmp_path / "no data", tmp_path / "file" / below, small_recipe())


@pytest.mark.gpu
def test_a_gpu_trains_as_a_cpu_does(clicks: Path, trained: tuple[Path, TrainingSummary], tmp_path: Path) -> None:
    """Item tables and model on the GPU: the same AUC within what rounding explains."""
    summary = train(clicks, tmp_path, small_recipe("device=cuda", "dropout=0"))
    assert summary.auc == pytest.approx(trained[1].auc, abs=0.05)
    run = Run(read_dataset(clicks, 8), tmp_path, small_recipe("device=cuda"), resume=False)
    assert run.items.embedding.is_cuda
    assert next(run.model.parameters()).is_cuda


@pytest.mark.slow
def test_tiny_learns_within_seconds(tmp_path: Path) -> None:
    """On 24,000 clicks, on two cores."""
    data = write_data(tmp_path / "data", num_rows=24_000, num_items=1500)
    started = time.perf_counter()
    assert train(data, tmp_path / "run", get_recipe("tiny")).auc > 0.8
    assert time.perf_counter() - started < 15


def test_the_same_seed_gives_the_same_weights(
    clicks: Path, trained: tuple[Path, TrainingSummary], tmp_path: Path
) -> None:
    """Two runs of one recipe end alike; another seed ends elsewhere."""
    train(clicks, tmp_path / "again", small_recipe())
    train(clicks, tmp_path / "other", small_recipe("seed=1", "epochs=1"))
    assert weights_of(tmp_path / "again") == weights_of(trained[0])
    assert weights_of(tmp_path / "other") != weights_of(trained[0])


def weights_of(out: Path) -> dict[str, bytes]:
    """Return the last weights and Adam's moments of a run."""
    return {name: tensor.numpy().tobytes() for name, tensor in read_tensors(out / STATE)[0].items()}


@pytest.mark.parametrize("where", ["predict", "save_checkpoint", "save_state"])
def test_an_interrupted_run_ends_as_an_unbroken_one(
    clicks: Path, trained: tuple[Path, TrainingSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Broken off in epoch 2, before its evaluation, its checkpoint or its state: the end is the same."""
    whole, summary = trained
    interrupt_second_call(monkeypatch, f"training.run.{where}")
    with pytest.raises(Interruption):
        train(clicks, tmp_path, small_recipe())
    monkeypatch.undo()
    resumed = train(clicks, tmp_path, small_recipe(), resume=True)
    assert weights_of(tmp_path) == weights_of(whole)
    assert replace(resumed, checkpoint=whole, rows_per_s=summary.rows_per_s) == summary
    assert [(record.epoch, record.auc) for record in read_journal(tmp_path)] == [
        (record.epoch, record.auc) for record in read_journal(whole)
    ]


def interrupt_second_call(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the second call of a function raise instead."""
    original, calls = pkgutil.resolve_name(name), []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise Interruption
        return original(*args, **kwargs)

    monkeypatch.setattr(name, interrupted)


def test_more_epochs_may_be_asked_of_a_run_that_ended(
    clicks: Path, trained: tuple[Path, TrainingSummary], tmp_path: Path
) -> None:
    """Two epochs and then one more are three epochs; a run that is over trains nothing more."""
    train(clicks, tmp_path, small_recipe("epochs=2"))
    train(clicks, tmp_path, small_recipe(), resume=True)
    assert weights_of(tmp_path) == weights_of(trained[0])
    assert train(clicks, tmp_path, small_recipe(), resume=True).epochs == 3


def test_another_recipe_is_not_resumed(clicks: Path, tmp_path: Path) -> None:
    """The error says what changed, from what to what."""
    train(clicks, tmp_path, small_recipe("epochs=1"))
    with pytest.raises(ResumeError, match=r"another recipe: learning_rate was 0\.008 and is 0\.001"):
        train(clicks, tmp_path, small_recipe("learning_rate=1e-3"), resume=True)


def test_other_data_is_not_resumed(clicks: Path, own_clicks: Path, tmp_path: Path) -> None:
    """One changed file is enough, even where every shape is the same."""
    out = tmp_path / "run"
    train(own_clicks, out, small_recipe("epochs=1"))
    table = pq.read_table(own_clicks / "train.parquet")
    pq.write_table(table.slice(1), own_clicks / "train.parquet")
    with pytest.raises(ResumeError, match="had other data"):
        train(own_clicks, out, small_recipe("epochs=2"), resume=True)


def test_there_must_be_a_run_to_resume(clicks: Path, tmp_path: Path) -> None:
    """An empty folder is not silently trained into."""
    with pytest.raises(ResumeError, match="holds no run to continue"):
        train(clicks, tmp_path, small_recipe(), resume=True)


def test_a_run_is_not_overwritten_by_another(clicks: Path, trained: tuple[Path, TrainingSummary]) -> None:
    """Without resume, a folder with a checkpoint is refused and left alone."""
    before = weights_of(trained[0])
    with pytest.raises(CheckpointError, match="holds a checkpoint already"):
        train(clicks, trained[0], small_recipe())
    assert weights_of(trained[0]) == before


def test_a_damaged_state_is_not_resumed(clicks: Path, tmp_path: Path) -> None:
    """A truncated state is an error, not a fresh start."""
    train(clicks, tmp_path, small_recipe("epochs=1"))
    whole = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="may be truncated"):
        train(clicks, tmp_path, small_recipe("epochs=2"), resume=True)


def test_a_loss_that_is_not_finite_ends_the_run(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names epoch and learning rate, and no checkpoint of such weights is left."""
    monkeypatch.setattr(QIN, "reset_parameters", lambda model: model.output.weight.data.fill_(float("inf")))
    with pytest.raises(DivergenceError, match=r"epoch 1: the loss is nan .* learning rate below 0\.008"):
        train(clicks, tmp_path, small_recipe())
    assert not (tmp_path / "model.safetensors").exists()


def test_a_gpu_that_is_not_there_is_refused(clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """device=cuda does not fall back to the CPU unseen."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="torch sees no GPU"):
        train(clicks, tmp_path, small_recipe("device=cuda"))


def test_the_best_epoch_is_kept_and_the_last_goes_on(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When AUC falls after epoch 1, the checkpoint stays at epoch 1; weights go on and the learning rate halves."""
    falling = iter([0.9, 0.8, 0.7])
    monkeypatch.setattr("training.run.auc", lambda _label, _score: next(falling))
    summary = train(clicks, tmp_path, small_recipe())
    checkpoint = load_checkpoint(tmp_path)
    assert (summary.best_epoch, summary.epochs, checkpoint.info.epoch, checkpoint.info.auc) == (1, 3, 1, 0.9)
    last = read_tensors(tmp_path / STATE)[0]["model.output.weight"]
    assert not torch.equal(last, checkpoint.model.output.weight)
    assert [record.learning_rate for record in read_journal(tmp_path)] == [8e-3, 8e-3, 4e-3]
    assert [record.best for record in read_journal(tmp_path)] == [True, False, False]


def test_padding_stays_the_zero_vector(trained: tuple[Path, TrainingSummary]) -> None:
    """Row 0 of every table is zero after training as before it."""
    model = load_checkpoint(trained[0]).model
    for table in (model.likes_embedding, model.views_embedding, model.item_embedding, model.tag_embedding):
        assert not table.weight[0].any()
        assert table.weight[1:].any()


def test_a_terminal_sees_bars_and_a_line_for_each_epoch(clicks: Path, tmp_path: Path) -> None:
    """Phase, loss, rows a second and time left while it runs; AUC and log loss of each epoch for good."""
    with (tmp_path / "screen").open("w") as file:
        train(clicks, tmp_path / "run", small_recipe(), console=Console(file=file, force_terminal=True, width=150))
    screen = (tmp_path / "screen").read_text()
    for word in ("train 1/3", "valid 1/3", "loss 0.", "rows/s", "epoch 3/3: AUC 0."):
        assert word in screen


def test_a_log_file_sees_only_the_lines(clicks: Path, tmp_path: Path) -> None:
    """Where there is no terminal, each epoch is one line and there are no control codes."""
    with (tmp_path / "log").open("w") as file:
        train(clicks, tmp_path / "run", small_recipe(), console=Console(file=file))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert not any("\x1b" in line for line in lines)
