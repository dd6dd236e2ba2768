"""Named training configurations: a function each, changed setting by setting from the command line."""

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import RecipeError
from training.model import ModelConfig


class Recipe(BaseModel):
    """Everything that decides a training run but its data; the defaults are the published values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    embedding_dim: int = Field(default=128, ge=1)
    num_layers: int = Field(default=4, ge=1)
    num_rows: int = Field(default=4, ge=1)
    batch_norm: bool = True
    dropout: float = Field(default=0.1, ge=0, lt=1)
    history_length: int = Field(default=64, ge=1, le=4096)
    batch_size: int = Field(default=8192, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    min_learning_rate: float = Field(default=1e-6, ge=0, le=1)
    learning_rate_factor: float = Field(default=0.5, gt=0, le=1)
    halve_after: int = Field(
        default=0, ge=0, description="epoch after which the learning rate is halved whatever it gave; 0 is never"
    )
    l2: float = Field(
        default=2e-4, ge=0, le=1, description="lambda: the loss holds lambda / 2 times the squared norm"
    )
    max_grad_norm: float = Field(default=10.0, gt=0)
    averaging: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="what each step keeps of the weights' moving average; 0 keeps the last weights",
    )
    exchange_negatives: bool = Field(
        default=False,
        description="deal a batch's negatives out anew among its rows: for sampled ones, not impressions",
    )
    history_dropout: float = Field(
        default=0.0, ge=0, le=0.5, description="share of history items that training leaves out, on average"
    )
    epochs: int = Field(default=100, ge=0, description="0 only grows a checkpoint that training goes on from")
    patience: int = Field(default=8, ge=1, description="evaluations in a row without improvement that end a run")
    min_improvement: float = Field(default=1e-6, ge=0, le=1, description="by how much the best AUC must be beaten")
    seed: int = Field(default=20242025, ge=0)
    shuffle_window: int = Field(
        default=0, ge=0, description="rows that are mixed at a time, for sets larger than memory; 0 mixes all alike"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the products in training; bfloat16 is faster and gives other weights"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int = Field(default=0, ge=0, description="of torch on the CPU; 0 leaves torch's own choice")

    def network(self) -> ModelConfig:
        """Return the sizes of the network that this recipe trains."""
        return ModelConfig(
            embedding_dim=self.embedding_dim,
            num_layers=self.num_layers,
            num_rows=self.num_rows,
            batch_norm=self.batch_norm,
            dropout=self.dropout,
        )


def paper() -> Recipe:
    """Train as published (arXiv 2504.17699 and its code): 31 million parameters on MicroLens-1M; wants a GPU."""
    return Recipe(name="paper")


def microlens_50k() -> Recipe:
    """Train on 50,000 users of MicroLens, a million clicks, with two CPU cores; docs/results.md has what it gave.

    A high learning rate is what keeps this network from overfitting, and averaged weights are what it gives; it is
    halved for the last epochs alone. The negatives of this data were sampled, and are dealt out anew: `impressions`
    is the recipe for those that were not.
    """
    return Recipe(
        name="microlens_50k",
        embedding_dim=32,
        num_layers=3,
        num_rows=3,
        dropout=0.0,  # without it the rows of a layer are one product: several times the speed
        batch_size=1024,
        learning_rate_factor=1.0,
        halve_after=21,
        l2=3e-4,
        averaging=0.9995,
        exchange_negatives=True,
        history_dropout=0.2,
        epochs=24,
        patience=4,
    )


def impressions() -> Recipe:
    """Train as `microlens_50k`, on what users were shown and did or did not click: every row stays as it is."""
    return microlens_50k().model_copy(update={"name": "impressions", "exchange_negatives": False})


def tiny() -> Recipe:
    """Train on some ten thousand rows within seconds: for the demo and for tests."""
    return Recipe(
        name="tiny",
        embedding_dim=16,
        num_layers=3,
        num_rows=2,
        dropout=0.0,
        batch_size=512,
        learning_rate=4e-3,
        l2=1e-3,
        epochs=6,
        patience=3,
        num_threads=1,  # batches this small are done before a second thread has woken up
    )


_RECIPES: tuple[Callable[[], Recipe], ...] = (paper, microlens_50k, impressions, tiny)
RECIPE_NAMES = tuple(recipe.__name__ for recipe in _RECIPES)


def get_recipe(name: str) -> Recipe:
    """Return the recipe of a name; raises RecipeError, listing the names, where there is none."""
    for recipe in _RECIPES:
        if recipe.__name__ == name:
            return recipe()
    raise RecipeError(f"there is no recipe {name!r}; the recipes are {', '.join(RECIPE_NAMES)}")


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return the recipe with `key=value` settings changed, the last one of a key counting.

    Raises
    ------
    RecipeError
        A setting is not `key=value`, its key is not a setting, or its value cannot be taken.
    """
    changed: dict[str, object] = recipe.model_dump()
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise RecipeError(f"setting {setting!r} is not of the form key=value")
        if key not in changed or key == "name":
            known = ", ".join(sorted(changed.keys() - {"name"}))
            raise RecipeError(f"there is no setting {key!r}; the settings are {known}")
        changed[key] = value
    try:
        return Recipe.model_validate(changed)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"setting {first['loc'][0]}={first['input']}: {first['msg']}") from error
