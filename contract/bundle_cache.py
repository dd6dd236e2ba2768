"""Bundles of a store that is elsewhere, kept in a local folder, by any number of processes at once.

    <cache>/bundles/<store>/<model>/<version>/     a bundle, whole or absent
    <cache>/bundles/<store>/<model>/.locks/        by version: who uses it, and who fetches it

A version is put in under another name and renamed. Whoever reads one holds a shared lock on a file of its own, and
only what nobody holds is removed; locks end with their process, however it ends.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from contract.bundle import StoreError, list_versions
from contract.files import sync_folder
from contract.leftovers import new_staging, remove_leftovers, take_away

_POLL_S = 0.05
_LONGEST_TURN_S = 600.0


class Lease:
    """A shared lock on a version's use; it ends when nobody refers to it any more."""

    def __init__(self, descriptor: int) -> None:
        self.close = weakref.finalize(self, os.close, descriptor)


class BundleCache:
    """The versions of one store's models that are on this machine.

    Parameters
    ----------
    folder
        Of all caches; made where it is not there.
    location
        The store, without secrets: another password is no other store.
    """

    def __init__(self, folder: Path, location: str) -> None:
        self._folder = folder / "bundles" / hashlib.sha256(location.encode()).hexdigest()[:16]

    def path(self, model: str, version: str) -> Path:
        """Return where a version lies, if it is here."""
        return self._folder / model / version

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model that are here, oldest first."""
        return list_versions(self._folder, model)

    def staging_folder(self, model: str) -> Path:
        """Return a fresh name for a version that is being put in; raises StoreError."""
        with self._or_unwritable():
            (self._folder / model).mkdir(parents=True, exist_ok=True)
        return new_staging(self._folder / model)

    def put(self, staged: Path, model: str, version: str) -> Path:
        """Make a staged folder a version here, in place of one that is there; raises StoreError."""
        target = self.path(model, version)
        with self._or_unwritable():
            if target.exists():
                take_away(target)
            staged.rename(target)
            sync_folder(target.parent)
        return target

    def hold(self, model: str, version: str) -> Lease:
        """Keep a version from being removed, there or to come, for as long as the lease lives; raises StoreError."""
        descriptor = self._lock_file(model, version)
        with contextlib.suppress(OSError):  # a file system without locks: then nothing is removed either
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.utime(descriptor)
        return Lease(descriptor)

    @contextlib.contextmanager
    def turn(self, model: str, version: str) -> Iterator[None]:
        """Be the only one who fetches a version, as far as that can be waited for; raises StoreError.

        Two who fetch at once do no harm, only work.
        """
        descriptor, stop = self._lock_file(model, f"{version}.fetch"), time.monotonic() + _LONGEST_TURN_S
        try:
            with contextlib.suppress(OSError):
                while not _locked(descriptor) and time.monotonic() < stop:
                    time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def prune(self, model: str, keep: int) -> None:
        """Remove all but the versions that were used last and those that are in use, and what crashes left here."""
        with contextlib.suppress(OSError, StoreError):
            used = sorted(self.versions(model), key=lambda version: self._used_s(model, version))
            for version in used[:-keep]:
                self._remove_unused(model, version)
            remove_leftovers(self._folder / model)

    def _used_s(self, model: str, version: str) -> float:
        try:
            return (self._folder / model / ".locks" / version).stat().st_mtime
        except OSError:
            return 0.0

    def _remove_unused(self, model: str, version: str) -> None:
        descriptor, removed = self._lock_file(model, version), None
        try:
            if _locked(descriptor):
                removed = take_away(self.path(model, version))
        finally:
            os.close(descriptor)
        if removed is not None:
            shutil.rmtree(removed, ignore_errors=True)

    def _lock_file(self, model: str, name: str) -> int:
        folder = self._folder / model / ".locks"
        with self._or_unwritable():
            folder.mkdir(parents=True, exist_ok=True)
            return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def _or_unwritable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the cache of bundles in {self._folder} cannot be written ({error.strerror or error}): "
                "name another folder by cache_dir (QIN_CACHE_DIR)"
            ) from error


def _locked(descriptor: int) -> bool:
    """Take an exclusive lock if it is free, and return whether it was."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):
            return False
        raise
    return True
