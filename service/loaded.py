"""The model, and perhaps the version, that a path of the Open Inference Protocol names."""

from dataclasses import dataclass

from fastapi import Request

from service.errors import NotFoundError
from service.replica import Replica


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is there.

    Attributes
    ----------
    version
        The one that the path names; None where it names none.
    names
        The loaded versions that are meant: that one, or all, the serving one first.
    """

    model: str
    version: str | None
    names: tuple[str, ...]


def loaded(request: Request) -> Loaded:
    """Return what a path means.

    Raises
    ------
    NotFoundError
        There is no such model, or that version of it is not loaded; the message says what is.
    """
    replica: Replica = request.app.state.replica
    model = request.path_params.get("model", replica.settings.model)
    if model != replica.settings.model:
        raise NotFoundError(f"there is no model {model!r} here, only {replica.settings.model!r}")
    names = tuple(version.name for version in replica.registry.lineup.versions)
    version: str | None = request.path_params.get("version")
    if version is None:
        return Loaded(model, None, names)
    if version not in names:
        raise NotFoundError(f"version {version!r} of {model} is not loaded here; loaded: {', '.join(names)}")
    return Loaded(model, version, (version,))
