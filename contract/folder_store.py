"""A store that is a folder: what is read from it is read in place."""

import shutil
from pathlib import Path

from contract.bundle import (
    MANIFEST,
    Bundle,
    BundleNotFoundError,
    StoreError,
    check_name,
    list_versions,
    publish,
    read_manifest,
    staging_folder,
)
from contract.leftovers import remove_leftovers, take_away
from contract.manifest import Manifest
from contract.store import read_version


class FolderStore:
    """Models below a folder of this machine, or of one that is mounted; see `contract.store.Store`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def location(self) -> str:
        """The folder's path."""
        return str(self._folder)

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model, oldest first; raises BundleError."""
        try:
            return list_versions(self._folder, model)
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be listed: {error.strerror or error}") from error

    def manifest(self, model: str, version: str) -> Manifest:
        """Return a version's manifest; raises BundleError."""
        return read_manifest(self._path(model, version))

    def fetch(self, model: str, version: str) -> Path:
        """Return a version's folder; raises BundleNotFoundError."""
        path = self._path(model, version)
        if not (path / MANIFEST).is_file():
            raise BundleNotFoundError(f"no bundle at {path}")
        return path

    def read(self, model: str, version: str) -> Bundle:
        """Return a version, verified; raises BundleError."""
        return read_version(self._path(model, version), model, version)

    def staging_folder(self, model: str) -> Path:
        """Return a fresh name beside the versions of a model."""
        return staging_folder(self._folder, model)

    def publish(self, staged: Path, version: str) -> Path:
        """Make a staged folder a version by one rename; raises BundleExistsError."""
        return publish(staged, version)

    def remove(self, model: str, version: str) -> None:
        """Remove a version's folder: renamed first, so that no reader sees half; raises BundleError.

        Of a link to a folder elsewhere only the link is removed.
        """
        path = self.fetch(model, version)
        try:
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(take_away(path))
        except OSError as error:
            raise StoreError(f"{path} cannot be removed: {error.strerror or error}") from error

    def remove_leftovers(self, model: str) -> list[str]:
        """Remove what crashes left more than a day ago, and return its names."""
        return remove_leftovers(self._folder / check_name(model, "model"))

    def _path(self, model: str, version: str) -> Path:
        return self._folder / check_name(model, "model") / check_name(version, "version")
