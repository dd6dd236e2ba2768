"""A training run: parquet in, the best checkpoint out, resumable after every epoch."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from training.averaging import WeightAverage
from training.checkpoint import WEIGHTS, CheckpointInfo, save_checkpoint
from training.data import shuffled
from training.dataset import Dataset, read_dataset
from training.device import resolve_device
from training.errors import CheckpointError, DataError, DivergenceError, RecipeError
from training.evaluate import predict
from training.journal import EpochRecord, Journal, read_journal
from training.memory import keep_freed_memory
from training.metrics import auc, log_loss
from training.model import QIN
from training.negatives import exchanged
from training.plateau import Plateau
from training.progress import RunProgress
from training.recipes import Recipe
from training.resume import STATE, RunState, load_state, save_state
from training.step import Optimiser
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
    data: Path, out: Path, recipe: Recipe, resume: bool = False, console: Console | None = None
) -> TrainingSummary:
    """Train on `train.parquet` and choose the epoch on `valid.parquet`, both with `item_info.parquet`.

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

    Raises
    ------
    DataError, MmctrError
        The files cannot be used; the message names file and row.
    RecipeError
        The recipe's device is not there, or it wants batch norm over batches of one row.
    CheckpointError
        `out` holds another run, or nothing that can be resumed.
    DivergenceError
        The loss is not finite any more.
    OutputError
        The folder `out` cannot be made.
    """
    if not resume and ((out / STATE).exists() or (out / WEIGHTS).exists()):
        raise CheckpointError(f"{out} holds a checkpoint already: resume its run, or train into another folder")
    if not resume:
        make_folder(out)  # before the data is read, which may take long
    console = console or Console(quiet=True)
    run = Run(read_dataset(data, recipe.history_length), out, recipe, resume)
    with RunProgress(console, recipe.epochs) as progress, Journal(out, run.plateau.epoch) as journal:
        while not run.plateau.is_over(recipe):
            record = run.epoch(progress)
            journal.write(record)  # before the state: what is not in the state is dropped and done again
            run.save(record)
            progress.print(describe(record, recipe))
    return _summary(out, run.plateau)


class Run:
    """Model, optimiser and data of one training run, on one device."""

    def __init__(self, dataset: Dataset, out: Path, recipe: Recipe, resume: bool) -> None:
        _check_batches(len(dataset.train), recipe)
        self.dataset, self.out, self.recipe = dataset, out, recipe
        self.device = resolve_device(recipe.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        if recipe.num_threads:
            torch.set_num_threads(recipe.num_threads)
        self.items = dataset.catalogue.items.to(self.device)
        torch.manual_seed(recipe.seed)
        self.model = QIN(dataset.schema, recipe.network()).to(self.device)
        self.optimiser = Optimiser(self.model, self.items, recipe.learning_rate, recipe.l2, recipe.max_grad_norm)
        self.average = WeightAverage(self.model, recipe.averaging) if recipe.averaging else None
        self.plateau = Plateau(learning_rate=recipe.learning_rate)
        if resume:
            self.plateau = load_state(out, recipe, dataset.fingerprint, *self._resumable())

    @property
    def kept(self) -> QIN:
        """The model that is evaluated and stored: the averaged one where the recipe asks for it."""
        return self.average.model if self.average else self.model

    def _resumable(self) -> tuple[QIN, torch.optim.Optimizer, torch.nn.Module | None]:
        return self.model, self.optimiser.adam, self.average.module if self.average else None

    def epoch(self, progress: RunProgress) -> EpochRecord:
        """Train one epoch and evaluate it."""
        epoch, learning_rate = self.plateau.epoch + 1, self.plateau.learning_rate
        self.optimiser.learning_rate = learning_rate
        started = time.perf_counter()
        loss, penalty, grad_norm = self._train(epoch, progress)
        trained = time.perf_counter()
        area, entropy = self._evaluate(epoch, progress)
        self.plateau = self.plateau.after(area, entropy, self.recipe)
        return EpochRecord(
            epoch=epoch,
            loss=loss,
            penalty=penalty,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            rows_per_s=len(self.dataset.train) / (trained - started),
            train_s=trained - started,
            evaluate_s=time.perf_counter() - trained,
            auc=area,
            log_loss=entropy,
            best=self.plateau.improved,
        )

    def _train(self, epoch: int, progress: RunProgress) -> tuple[float, float, float]:
        """Return the mean over rows of loss, L2 term and gradient norm."""
        rows, sums = self.dataset.train, np.zeros(3)
        # Everything random in an epoch follows from (seed, epoch), so that it can be run again alike.
        torch.manual_seed(int(np.random.SeedSequence([self.recipe.seed, epoch]).generate_state(1)[0]))
        self.model.train()
        with progress.bar("train", epoch, len(rows)) as bar:
            for batch_rows in shuffled(len(rows), self.recipe.batch_size, self.recipe.seed, epoch):
                batch = rows.batch(batch_rows, self.device)
                result = self.optimiser.step(exchanged(batch) if self.recipe.exchange_negatives else batch)
                if self.average:
                    self.average.update()
                values = np.array([float(value) for value in result])
                if not np.isfinite(values).all():
                    raise DivergenceError(_divergence(epoch, values[0], values[2], self.optimiser.learning_rate))
                sums += values * len(batch_rows)
                bar.advance(len(batch_rows), f"loss {values[0]:.4f}")
        loss, penalty, grad_norm = sums / len(rows)
        return float(loss), float(penalty), float(grad_norm)

    def _evaluate(self, epoch: int, progress: RunProgress) -> tuple[float, float]:
        """Return AUC and log loss over the validation rows."""
        rows = self.dataset.valid
        assert rows.label is not None
        with progress.bar("valid", epoch, len(rows)) as bar:
            scores = predict(self.kept, self.items, rows, bar.advance)
        area = auc(rows.label, scores)
        assert area is not None  # read_dataset saw both classes
        return area, log_loss(rows.label, scores)

    def save(self, record: EpochRecord) -> None:
        """Keep the epoch's weights where they are the best so far, and the state to resume from."""
        if record.best:
            info = CheckpointInfo(
                features=self.dataset.schema,
                config=self.recipe.network(),
                recipe=self.recipe.name,
                settings=self.recipe.model_dump(exclude={"name"}),
                data_fingerprint=self.dataset.fingerprint,
                epoch=record.epoch,
                auc=record.auc,
                log_loss=record.log_loss,
            )
            save_checkpoint(self.out, info, self.kept.state_dict(), self.dataset.vocabulary)
        state = RunState(recipe=self.recipe, data_fingerprint=self.dataset.fingerprint, plateau=self.plateau)
        save_state(self.out, state, *self._resumable())


def _check_batches(num_rows: int, recipe: Recipe) -> None:
    """Refuse batches of one row where there is batch norm, which needs two for a variance."""
    if recipe.batch_norm and num_rows == 1:
        raise DataError("the training rows are only one; batch norm needs two: add rows or set batch_norm=false")
    if recipe.batch_norm and recipe.batch_size == 1:
        raise RecipeError("batch_size=1 cannot be trained with batch norm: set batch_size=2 or batch_norm=false")


def describe(record: EpochRecord, recipe: Recipe) -> str:
    """Return one line about an epoch."""
    return (
        f"epoch {record.epoch}/{recipe.epochs}: AUC {record.auc:.6f}, log loss {record.log_loss:.6f}, "
        f"training loss {record.loss:.4f}, {record.rows_per_s:,.0f} rows/s{', best so far' if record.best else ''}"
    )


def _divergence(epoch: int, loss: float, grad_norm: float, learning_rate: float) -> str:
    return (
        f"epoch {epoch}: the loss is {loss:g} and its gradient's norm {grad_norm:g}; "
        f"a learning rate below {learning_rate:g} may help"
    )


def _summary(out: Path, plateau: Plateau) -> TrainingSummary:
    assert plateau.best_auc is not None
    assert plateau.best_log_loss is not None
    assert plateau.best_epoch is not None
    records = read_journal(out)
    num_rows, seconds = sum(record.rows_per_s * record.train_s for record in records), sum(r.train_s for r in records)
    return TrainingSummary(
        out, plateau.best_auc, plateau.best_log_loss, plateau.best_epoch, plateau.epoch, num_rows / seconds
    )
