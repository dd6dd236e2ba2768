"""Where a model runs."""

import torch

from training.errors import RecipeError


def resolve_device(name: str, number: int | None = None) -> torch.device:
    """Return the device of a recipe's `auto`, `cpu` or `cuda`; raises RecipeError where it is not there.

    `number` says which GPU, where each process of a run has its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RecipeError("device=cuda, but torch sees no GPU here; use device=cpu or device=auto")
    return torch.device(name, number) if name == "cuda" and number is not None else torch.device(name)
