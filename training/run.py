"""Model, optimiser and data of a training run, epoch by epoch."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from training.averaging import WeightAverage
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.data import shuffled
from training.dataset import Dataset
from training.device import resolve_device
from training.errors import DataError, DivergenceError, RecipeError
from training.evaluate import PREDICTED_ROWS, predict
from training.grow import Beginning, take_weights
from training.histories import thinned
from training.journal import EpochRecord, Journal
from training.loader import Loaded, batches
from training.memory import keep_freed_memory
from training.meter import Meter
from training.metrics import auc, log_loss
from training.model import QIN, Batch
from training.negatives import exchanged
from training.plateau import Plateau
from training.progress import RunProgress
from training.ranks import ALONE, Ranks
from training.recipes import Recipe
from training.resume import RunState, load_state, save_state
from training.step import Optimiser


class Run:
    """Model, optimiser and data of one training run, on one device; `ranks` are the processes that share it."""

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        recipe: Recipe,
        resume: bool,
        beginning: Beginning | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        _check_batches(len(dataset.train), recipe, ranks.size)
        self.dataset, self.out, self.recipe, self.ranks = dataset, out, recipe, ranks
        self.start = None if beginning is None else beginning.sha256
        self.device = resolve_device(recipe.device, ranks.local_rank if ranks.size > 1 else None)
        if self.device.type == "cpu":
            keep_freed_memory()
        if recipe.num_threads:
            torch.set_num_threads(recipe.num_threads)
        self.items = dataset.catalogue.items.to(self.device)
        torch.manual_seed(recipe.seed)
        self.model = QIN(dataset.schema, recipe.network()).to(self.device)
        if beginning is not None:
            take_weights(self.model, beginning.checkpoint)
        self.optimiser = Optimiser(
            self.model,
            self.items,
            recipe.learning_rate,
            recipe.l2,
            recipe.max_grad_norm,
            ranks,
            recipe.precision,
        )
        self.average = WeightAverage(self.model, recipe.averaging) if recipe.averaging else None
        self.plateau = Plateau(learning_rate=recipe.learning_rate)
        if resume:
            self.plateau = load_state(out, recipe, dataset.fingerprint, *self._resumable(), self.start)

    @property
    def kept(self) -> QIN:
        """The model that is evaluated and stored: the averaged one where the recipe asks for it."""
        return self.average.model if self.average else self.model

    def _resumable(self) -> tuple[QIN, torch.optim.Optimizer, torch.nn.Module | None]:
        return self.model, self.optimiser.adam, self.average.module if self.average else None

    def until_over(self, console: Console, keep_start: bool = False) -> None:
        """Run the epochs that are left; with `keep_start` the weights as they are count as epoch 0."""
        journal = Journal(self.out, self.plateau.epoch) if self.ranks.is_first else None
        with RunProgress(console, self.recipe.epochs) as progress, journal or nullcontext():
            if keep_start:
                progress.print(self.keep_start(progress))
            while not self.plateau.is_over(self.recipe):
                record = self.epoch(progress)
                if journal is not None:
                    journal.write(record)  # before the state: what is not in the state is dropped and done again
                self.save(record)
                progress.print(describe(record, self.recipe))

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
        rows, meter = self.dataset.train, Meter(self.device)
        torch.manual_seed(self._seed(epoch))
        self.model.train()
        with progress.bar("train", epoch, len(rows)) as bar:
            for batch, num_rows in self._batches(epoch):
                result = self.optimiser.step(self._augmented(batch), num_rows)
                if self.average:
                    self.average.update()
                meter.add(result, num_rows)
                bar.advance(num_rows, self._checked(epoch, meter) if meter.is_due() else None)
        self._checked(epoch, meter)
        loss, penalty, grad_norm = meter.means()
        return float(loss), float(penalty), float(grad_norm)

    def _seed(self, epoch: int) -> int:
        """Return what seeds all that is random in an epoch, which can therefore be run again alike."""
        entropy = [self.recipe.seed, epoch] + ([self.ranks.rank] if self.ranks.rank else [])
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])

    def _batches(self, epoch: int) -> Iterator[Loaded]:
        recipe, rows = self.recipe, self.dataset.train
        smallest = max(2, self.ranks.size)
        order = shuffled(len(rows), recipe.batch_size, recipe.seed, epoch, recipe.shuffle_window, smallest)
        ahead = bool(recipe.shuffle_window) or self.device.type != "cpu"
        return batches(rows, order, self.ranks, self.device, ahead)

    def _checked(self, epoch: int, meter: Meter) -> str:
        """Return a note of the last step's loss; raises DivergenceError where a figure is not finite."""
        values = meter.last()
        if not np.isfinite(values).all():
            raise DivergenceError(_divergence(epoch, values[0], values[2], self.optimiser.learning_rate))
        return f"loss {values[0]:.4f}"

    def _augmented(self, batch: Batch) -> Batch:
        if self.recipe.exchange_negatives:
            batch = exchanged(batch)
        return thinned(batch, self.recipe.history_dropout) if self.recipe.history_dropout else batch

    def _evaluate(self, epoch: int, progress: RunProgress) -> tuple[float, float]:
        """Return AUC and log loss over the validation rows."""
        rows = self.dataset.valid
        assert rows.label is not None
        mine = rows.part(self.ranks.share(len(rows), PREDICTED_ROWS))
        with progress.bar("valid", epoch, len(mine)) as bar:
            scores = predict(self.kept, self.items, mine, bar.advance)
        scores = self.ranks.gathered(scores, len(rows), PREDICTED_ROWS)
        area = auc(rows.label, scores)
        assert area is not None  # read_dataset saw both classes
        return area, log_loss(rows.label, scores)

    def save(self, record: EpochRecord) -> None:
        """Keep the epoch's weights where they are the best so far, and the state to resume from."""
        if record.best:
            self._save_checkpoint(record.epoch, record.auc, record.log_loss)
        self._save_state()

    def keep_start(self, progress: RunProgress) -> str:
        """Evaluate and keep the weights that the run goes on from, as those of epoch 0; return a line about it."""
        area, entropy = self._evaluate(0, progress)
        self.plateau = Plateau(
            learning_rate=self.recipe.learning_rate, best_auc=area, best_log_loss=entropy, best_epoch=0
        )
        self._save_checkpoint(0, area, entropy)
        self._save_state()
        return f"before: AUC {area:.6f}, log loss {entropy:.6f}"

    def _save_checkpoint(self, epoch: int, area: float, entropy: float) -> None:
        info = CheckpointInfo(
            features=self.dataset.schema,
            config=self.recipe.network(),
            recipe=self.recipe.name,
            settings=self.recipe.model_dump(exclude={"name"}),
            data_fingerprint=self.dataset.fingerprint,
            start=self.start,
            epoch=epoch,
            auc=area,
            log_loss=entropy,
        )
        if self.ranks.is_first:
            save_checkpoint(self.out, info, self.kept.state_dict(), self.dataset.vocabulary)

    def _save_state(self) -> None:
        state = RunState(
            recipe=self.recipe,
            data_fingerprint=self.dataset.fingerprint,
            plateau=self.plateau,
            start=self.start,
        )
        if self.ranks.is_first:
            save_state(self.out, state, *self._resumable())


def _check_batches(num_rows: int, recipe: Recipe, num_processes: int) -> None:
    """Refuse batches of one row where there is batch norm, which needs two for a variance, or of no row at all."""
    if min(num_rows, recipe.batch_size) < num_processes:
        raise RecipeError(
            f"{num_processes} processes cannot share a batch of {min(num_rows, recipe.batch_size)} rows"
        )
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
