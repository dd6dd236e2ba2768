"""The state from which an interrupted run goes on: weights, their average, Adam's moments, and where the run stands.

No state of a random generator is needed: every epoch draws from (seed, epoch).
"""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from training.errors import ResumeError
from training.plateau import Plateau
from training.recipes import Recipe
from training.tensorfile import read_tensors, write_tensors

STATE = Path("resume") / "state.safetensors"


class RunState(BaseModel):
    """What is stored beside the tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    data_fingerprint: str
    plateau: Plateau
    start: str | None = None  # SHA-256 of the checkpoint that the run went on from


def save_state(
    folder: Path,
    state: RunState,
    model: nn.Module,
    adam: torch.optim.Optimizer,
    average: nn.Module | None = None,
) -> None:
    """Store a run after an epoch, in one file that takes the older one's place."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for position, moments in adam.state_dict()["state"].items():
        tensors |= {f"adam.{position}.{name}": tensor for name, tensor in moments.items()}
    write_tensors(folder / STATE, tensors, state.model_dump_json())


def load_state(
    folder: Path,
    recipe: Recipe,
    data_fingerprint: str,
    model: nn.Module,
    adam: torch.optim.Optimizer,
    average: nn.Module | None = None,
    start: str | None = None,
) -> Plateau:
    """Bring model, optimiser and average to where the run of `folder` was, and return where that is.

    More or fewer `epochs` than before are no other recipe: they change nothing in the epochs that were run.

    Raises
    ------
    ResumeError
        There is nothing to continue, or the run had another recipe, other data or another start.
    CheckpointError
        The stored state is truncated or changed.
    """
    if not (folder / STATE).exists():
        raise ResumeError(f"{folder} holds no run to continue")
    tensors, text = read_tensors(folder / STATE)
    try:
        state = RunState.model_validate_json(text)
    except ValidationError as error:
        raise ResumeError(f"{folder / STATE} was written by another version: {error.errors()[0]['msg']}") from error
    _check_same(folder, state, recipe, data_fingerprint)
    if state.start != start:
        raise ResumeError(f"the run in {folder} went on from {'another' if state.start else 'no'} checkpoint")
    _restore(tensors, model, adam)
    if average is not None:
        average.load_state_dict(_under("average.", tensors))
    return state.plateau


def _check_same(folder: Path, state: RunState, recipe: Recipe, data_fingerprint: str) -> None:
    before, now = state.recipe.model_dump(exclude={"epochs"}), recipe.model_dump(exclude={"epochs"})
    changed = [f"{key} was {before[key]} and is {now[key]}" for key in before if before[key] != now[key]]
    if changed:
        raise ResumeError(f"the run in {folder} had another recipe: {', '.join(changed)}")
    if state.data_fingerprint != data_fingerprint:
        raise ResumeError(f"the run in {folder} had other data: its files have changed since")


def _restore(tensors: dict[str, Tensor], model: nn.Module, adam: torch.optim.Optimizer) -> None:
    model.load_state_dict(_under("model.", tensors))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, position, moment = name.split(".", 2)
            moments.setdefault(int(position), {})[moment] = tensor
    adam.load_state_dict({"state": moments, "param_groups": adam.state_dict()["param_groups"]})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
