"""A training run: parquet in, the best checkpoint out, resumable after every epoch."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from training.checkpoint import WEIGHTS
from training.checks import check_rows, refuse_errors
from training.dataset import Dataset, read_dataset
from training.device import resolve_device
from training.errors import CheckpointError
from training.grow import Beginning, read_beginning
from training.journal import read_journal
from training.plateau import Plateau
from training.ranks import Ranks, joined
from training.recipes import Recipe
from training.relaunch import is_relaunch, note_launch
from training.report import report_run
from training.resume import STATE
from training.run import Run
from training.tensorfile import make_folder


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """What a run came to."""

    checkpoint: Path  # the folder that holds the weights of the best epoch
    auc: float  # of the best epoch, on the validation rows
    log_loss: float
    best_epoch: int
    epochs: int
    rows_per_s: float  # of training alone, over all epochs


def train(
    data: Path,
    out: Path,
    recipe: Recipe,
    resume: bool = False,
    console: Console | None = None,
    start: Path | None = None,
    cache: Path | None = None,
) -> TrainingSummary:
    """Train on `train.parquet` and choose the epoch on `valid.parquet`, both with `item_info.parquet`.

    Under torchrun its processes train together, and each returns the same; the first one writes.

    Parameters
    ----------
    data
        The folder of the three files.
    out
        Where checkpoint, metrics, curves and the state to resume from go.
    resume
        Go on from the last whole epoch in `out`; on a CPU the weights end as those of an unbroken run.
    console
        For progress; none means silence.
    start
        The folder of a checkpoint to go on from, grown by what the data bring (`training.grow`). Its weights count
        as epoch 0: they are what is kept if no epoch is better.
    cache
        Where large clicks are kept in a form that is mapped; none means that all are read into memory.

    Raises
    ------
    DataError, MmctrError
        The files cannot be used; the message names file and row.
    RecipeError
        The recipe's device is not there, it wants batch norm over batches of one row, or its network is not that
        of `start`.
    CheckpointError
        `out` holds another run, or nothing that can be resumed; or `start` holds no checkpoint.
    DivergenceError
        The loss is not finite any more.
    OutputError
        The folder `out` cannot be made, or the cache cannot be written.
    """
    with joined(with_gpu=resolve_device(recipe.device).type == "cuda") as ranks:
        console = console if console and ranks.is_first else Console(quiet=True)
        return _train(data, out, recipe, resume, console, start, cache, ranks)


def _train(
    data: Path,
    out: Path,
    recipe: Recipe,
    resume: bool,
    console: Console,
    start: Path | None,
    cache: Path | None,
    ranks: Ranks,
) -> TrainingSummary:
    relaunched = is_relaunch(out, ranks)
    resume = resume or (relaunched and ranks.agreed((out / STATE).exists()))
    if not resume and not relaunched:
        _refuse_another_run(out)
    beginning = read_beginning(start, recipe)
    if not resume:
        make_folder(out)  # before the data is read, which may take long
    dataset = _read(data, recipe, cache, beginning, ranks)
    for warning in refuse_errors(check_rows(data, dataset.train, dataset.valid, dataset.catalogue)):
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    run = Run(dataset, out, recipe, resume, beginning, ranks)
    note_launch(out, ranks)
    run.until_over(console, keep_start=beginning is not None and not resume)
    if ranks.is_first:
        report_run(out, data, dataset, run.device)
    ranks.wait()  # for the first one's last files
    return _summary(out, run.plateau)


def _refuse_another_run(out: Path) -> None:
    if (out / STATE).exists() or (out / WEIGHTS).exists():
        raise CheckpointError(f"{out} holds a checkpoint already: resume its run, or train into another folder")


def _read(data: Path, recipe: Recipe, cache: Path | None, beginning: Beginning | None, ranks: Ranks) -> Dataset:
    """Read the data; the first process of each machine goes first, and the others find its cache."""
    if ranks.local_rank:
        ranks.wait()
    dataset = read_dataset(data, recipe.history_length, cache, None if beginning is None else beginning.checkpoint)
    if not ranks.local_rank:
        ranks.wait()
    return dataset


def _summary(out: Path, plateau: Plateau) -> TrainingSummary:
    assert plateau.best_auc is not None
    assert plateau.best_log_loss is not None
    assert plateau.best_epoch is not None
    records = read_journal(out)
    num_rows, seconds = sum(record.rows_per_s * record.train_s for record in records), sum(r.train_s for r in records)
    rows_per_s = num_rows / seconds if seconds else 0.0
    return TrainingSummary(
        out, plateau.best_auc, plateau.best_log_loss, plateau.best_epoch, plateau.epoch, rows_per_s
    )
