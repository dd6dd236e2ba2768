"""A trained model goes on with new items, new tags and new clicks.

Rows of the embedding tables are added behind the old ones: a new item's id, a new tag's number, a level that the
data did not have before. New rows are initialised as a new model's are; every other weight keeps its value, and so
does every vocabulary row of an item, whether the new catalogue still holds it or not.

Adam starts afresh. The moments that a run leaves behind belong to its last epoch and not to the one that was kept,
they know nothing of the new rows, and with bias correction the first steps are as large as the learning rate says
either way.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from contract.mmctr import ItemInfo
from contract.schema import Schema
from training.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from training.data import fingerprint, item_vocabulary, schema_of
from training.errors import DataError, RecipeError
from training.model import QIN
from training.recipes import Recipe, get_recipe

DEFAULT_RECIPE = "impressions"  # right for any data, if not the best where negatives were sampled
_TABLES = ("likes_embedding", "views_embedding", "item_embedding", "tag_embedding")


@dataclass(frozen=True, slots=True)
class Beginning:
    """The checkpoint that a run goes on from."""

    checkpoint: Checkpoint
    sha256: str  # of its file


def read_beginning(start: Path | None, recipe: Recipe) -> Beginning | None:
    """Read the checkpoint of a folder that a run goes on from; None where it begins anew.

    Raises
    ------
    CheckpointError
        There is no valid checkpoint.
    RecipeError
        The recipe's network is another one, or it has no epoch and there is nothing to go on from.
    """
    if start is None:
        if recipe.epochs == 0:
            raise RecipeError("epochs=0 trains nothing; it is for going on from a checkpoint, which it only grows")
        return None
    checkpoint = load_checkpoint(start)
    check_sizes(checkpoint, recipe)
    return Beginning(checkpoint, fingerprint(start / WEIGHTS))


@dataclass(frozen=True, slots=True)
class Growth:
    """What a model that goes on from a checkpoint will be trained with."""

    items: ItemInfo  # with the model's number of tag slots
    vocabulary: NDArray[np.int64]  # (num_items,) the checkpoint's, then the new ids ascending
    schema: Schema


def grow_features(start: Checkpoint, info: ItemInfo, history_length: int) -> Growth:
    """Return vocabulary and schema that hold what the checkpoint knows and what these items bring.

    Raises
    ------
    DataError
        The embeddings are of another width than the checkpoint's: its projection has no weights for them.
    """
    old, new = start.info.features, schema_of(info, history_length)
    if new.embedding_width != old.embedding_width:
        raise DataError(
            f"item_info has embeddings of width {new.embedding_width}, the checkpoint takes {old.embedding_width}: "
            "prepare the items as those that it was trained on, or train anew"
        )
    ids = item_vocabulary(info)[1:]
    vocabulary = np.concatenate([start.vocabulary, np.setdiff1d(ids, start.vocabulary[1:])])
    schema = Schema(
        num_items=len(vocabulary),
        num_tags=max(old.num_tags, new.num_tags),
        num_likes_levels=max(old.num_likes_levels, new.num_likes_levels),
        num_views_levels=max(old.num_views_levels, new.num_views_levels),
        max_tags=max(old.max_tags, new.max_tags),
        embedding_width=old.embedding_width,
        history_length=history_length,
    )
    spare = np.zeros((len(info), schema.max_tags - info.tags.shape[1]), dtype=np.int64)
    items = ItemInfo(info.item_id, np.concatenate([info.tags, spare], axis=1), info.embedding)
    return Growth(items, vocabulary, schema)


@torch.no_grad()
def take_weights(model: QIN, start: Checkpoint) -> None:
    """Give a new, larger model the weights of a checkpoint; the rows that only the new one has stay as they are."""
    new, old = model.state_dict(), start.model.state_dict()
    assert new.keys() == old.keys()
    for name, weight in old.items():
        if name.split(".")[0] in _TABLES:
            new[name][: len(weight)].copy_(weight)
        else:
            new[name].copy_(weight)


def recipe_of(start: Checkpoint) -> Recipe:
    """Return the recipe that a checkpoint was trained by; of an imported one, the published values and its sizes.

    Raises
    ------
    RecipeError
        The checkpoint has settings that are none any more.
    """
    info = start.info
    try:
        return Recipe.model_validate({"name": info.recipe, **info.config.model_dump(), **info.settings})
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"the checkpoint was trained by a recipe that is not understood, name one with --recipe: "
            f"{first['loc'][0]}: {first['msg']}"
        ) from error


def recipe_for(name: str | None, start: Path | None) -> Recipe:
    """Return the recipe of a name; without one, that of a checkpoint's folder, and without either the default."""
    if name is None and start is not None:
        return recipe_of(load_checkpoint(start))
    return get_recipe(name or DEFAULT_RECIPE)


def check_sizes(start: Checkpoint, recipe: Recipe) -> None:
    """Refuse a recipe whose network is not the checkpoint's; dropout may differ, it has no weights.

    Raises
    ------
    RecipeError
        Names every size that differs.
    """
    old, new = (config.model_dump(exclude={"dropout"}) for config in (start.info.config, recipe.network()))
    differing = [f"{name} is {new[name]}, the checkpoint's {old[name]}" for name in old if old[name] != new[name]]
    if differing:
        raise RecipeError(f"recipe {recipe.name} is of another network than the checkpoint: {'; '.join(differing)}")
