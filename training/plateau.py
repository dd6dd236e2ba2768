"""When to slow down, when to stop, and which epoch is the best: learning rate on plateau and early stop."""

from pydantic import BaseModel, ConfigDict

from training.recipes import Recipe


class Plateau(BaseModel):
    """Where a run stands after some evaluations; each evaluation gives a new value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float
    epoch: int = 0  # evaluations so far
    best_auc: float | None = None
    best_log_loss: float | None = None
    best_epoch: int | None = None
    num_stale: int = 0  # evaluations since the best one

    @property
    def improved(self) -> bool:
        """Whether the last evaluation was the best so far."""
        return self.epoch == self.best_epoch

    def after(self, auc: float, log_loss: float, recipe: Recipe) -> "Plateau":
        """Return the state after one more evaluation.

        By the published rule, an evaluation that does not beat the best AUC by `min_improvement` multiplies the
        learning rate by `learning_rate_factor`, down to `min_learning_rate`. Besides, which is not published, it is
        halved after the epoch `halve_after`, whatever that gave.
        """
        epoch = self.epoch + 1
        factor = 0.5 if epoch == recipe.halve_after else 1.0
        if self.best_auc is None or auc >= self.best_auc + recipe.min_improvement:
            return Plateau(
                learning_rate=self._slower(factor, recipe),
                epoch=epoch,
                best_auc=auc,
                best_log_loss=log_loss,
                best_epoch=epoch,
            )
        slower = self._slower(factor * recipe.learning_rate_factor, recipe)
        stale = {"epoch": epoch, "learning_rate": slower, "num_stale": self.num_stale + 1}
        return self.model_copy(update=stale)

    def _slower(self, factor: float, recipe: Recipe) -> float:
        return min(self.learning_rate, max(self.learning_rate * factor, recipe.min_learning_rate))

    def is_over(self, recipe: Recipe) -> bool:
        """Return whether the run has had all its epochs, or `patience` stale evaluations in a row."""
        return self.epoch >= recipe.epochs or self.num_stale >= recipe.patience
