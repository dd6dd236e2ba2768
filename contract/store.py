"""A store of models: a folder, or any URL that fsspec can open, behind one interface.

Versions are whole or absent, and never change. In a folder that is a rename; elsewhere a version's manifest is
written after all its other files and removed before them, so that whoever finds a manifest finds a version.
"""

from pathlib import Path
from typing import Protocol

from contract.bundle import Bundle, BundleCorruptError, BundleError, read_bundle
from contract.files import default_cache
from contract.location import is_url
from contract.manifest import Manifest

TIMEOUT_S = 10.0


class Store(Protocol):
    """Models and their versions; safe to use from several threads, and as slow as a disk or a network."""

    @property
    def location(self) -> str:
        """Where it is, fit for logs."""

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model, oldest first; an unknown model has none. Raises BundleError."""

    def manifest(self, model: str, version: str) -> Manifest:
        """Return a version's manifest; raises BundleError."""

    def fetch(self, model: str, version: str) -> Path:
        """Return a local folder that holds a version; raises BundleError.

        Of a store elsewhere it is a copy that was verified, and may be removed once newer ones are fetched.
        """

    def read(self, model: str, version: str) -> Bundle:
        """Return a version, verified; its files stay for as long as the bundle is referred to. Raises BundleError."""

    def staging_folder(self, model: str) -> Path:
        """Return a fresh local name to stage a bundle under. Raises BundleError."""

    def publish(self, staged: Path, version: str) -> Path:
        """Make a folder that was staged here a version, and return where it lies on this machine.

        Raises
        ------
        BundleExistsError
            The version is in the store already; the staged folder is removed.
        BundleError
            The store does not take it.
        """

    def remove(self, model: str, version: str) -> None:
        """Remove a version, so that readers see it whole or not at all; raises BundleError."""

    def remove_leftovers(self, model: str) -> list[str]:
        """Remove what was cut short more than a day ago, and return its names; raises BundleError."""


def open_store(location: Path | str, cache_dir: Path | None = None, timeout_s: float = TIMEOUT_S) -> Store:
    """Return the store at a folder's path or a URL; nothing is read or connected yet.

    Parameters
    ----------
    cache_dir
        Where versions of a store at a URL are kept; by default in the user's cache folder.
    timeout_s
        How long a store at a URL may take to answer.

    Raises
    ------
    StoreError
        The URL is not one, or fsspec is not installed.
    """
    if not is_url(str(location)):
        from contract.folder_store import FolderStore

        return FolderStore(Path(location))
    from contract.url_store import UrlStore

    return UrlStore(str(location), cache_dir or default_cache(), timeout_s)


def read_version(path: Path, model: str, version: str) -> Bundle:
    """Return the bundle at `path`, which must be this version of this model; raises BundleError."""
    bundle = read_bundle(path)
    check_identity(bundle.manifest, model, version)
    return bundle


def check_identity(manifest: Manifest, model: str, version: str) -> None:
    """Raise BundleCorruptError if a bundle says to be another one than the one it was looked up as."""
    if (manifest.model, manifest.version) != (model, version):
        raise BundleCorruptError(f"it says to be {manifest.model[:200]} {manifest.version[:200]}")


def manifests(store: Store, model: str) -> list[Manifest]:
    """Return the manifests of all versions of a model, oldest first; unreadable ones are left out.

    Raises
    ------
    BundleError
        The store does not answer.
    """
    found = [_manifest(store, model, version) for version in store.versions(model)]
    return [manifest for manifest in found if manifest is not None]


def _manifest(store: Store, model: str, version: str) -> Manifest | None:
    try:
        manifest = store.manifest(model, version)
        check_identity(manifest, model, version)
    except BundleError:
        return None
    return manifest
