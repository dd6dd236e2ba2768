"""Old versions deleted from a store, so that it does not grow for ever."""

import contextlib
from dataclasses import dataclass

from contract.bundle import BundleNotFoundError, check_name
from contract.store import Store, manifests
from contract.wire import ModelInfo


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning did."""

    removed: tuple[str, ...]
    """Versions, oldest first."""
    leftovers: tuple[str, ...]
    """What crashes had left."""


def prune(store: Store, model: str, keep: int, needed: frozenset[str] = frozenset()) -> Pruned:
    """Remove all versions of a model but the newest `keep` and those that are `needed`, and old leftovers.

    What cannot be read as a version of this model is neither counted nor touched.

    Raises
    ------
    BundleError
        The store does not answer, or refuses; what was removed by then is gone.
    ValueError
        `keep` is less than 1.
    """
    if keep < 1:
        raise ValueError("at least one version is kept")
    check_name(model, "model")
    versions = [manifest.version for manifest in manifests(store, model)]
    doomed = [version for version in versions[:-keep] if version not in needed]
    for version in doomed:
        with contextlib.suppress(BundleNotFoundError):  # somebody else prunes too
            store.remove(model, version)
    return Pruned(tuple(doomed), tuple(store.remove_leftovers(model)))


def versions_in_use(model: ModelInfo) -> frozenset[str]:
    """Return the versions that a service serves, may have to go back to, or has on trial, in any of its replicas."""
    names = {model.serving, model.active, model.previous}
    if model.trial is not None:
        names.add(model.trial.version)
    for replica in model.replicas:
        names |= {replica.version, replica.trial}
    return frozenset(name for name in names if name is not None)
