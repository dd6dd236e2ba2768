"""A store at a URL: uploaded with the manifest last, read from copies on this machine.

A version never changes, so a copy that holds what the store's manifest says is as good as the store. While the store
does not answer, what was copied before is served.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from contract.bundle import (
    EXPLAIN,
    GOLDEN,
    ITEM_ENCODER,
    MANIFEST,
    MOST_FILE_BYTES,
    RANKER,
    VOCABULARY,
    Bundle,
    BundleCorruptError,
    BundleError,
    BundleExistsError,
    BundleNotFoundError,
    StoreError,
    check_files,
    check_name,
    is_name,
    read_manifest,
)
from contract.bundle_cache import BundleCache
from contract.files import sync_folder
from contract.leftovers import LEFTOVER_S
from contract.manifest import MOST_BYTES, Manifest
from contract.remote import Remote
from contract.store import check_identity, read_version

_KEPT = 3
"""Versions that stay on this machine, beside those in use."""
_VERSION = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{8}")
_FILES = {MANIFEST, f"{MANIFEST}.part", ITEM_ENCODER, RANKER, EXPLAIN, VOCABULARY, GOLDEN}

_log = logging.getLogger(__name__)


class UrlStore:
    """Models below a URL; see `contract.store.Store`.

    Parameters
    ----------
    cache_dir
        The folder of copies, made at first use.

    Raises
    ------
    StoreError
        The URL is not one, or fsspec is not installed.
    """

    def __init__(self, url: str, cache_dir: Path, timeout_s: float) -> None:
        self._remote = Remote(url, timeout_s)
        self._cache = BundleCache(cache_dir, self._remote.location)
        self._manifests: dict[tuple[str, str], Manifest] = {}

    @property
    def location(self) -> str:
        """The URL without secrets."""
        return self._remote.location

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model, oldest first; those on this machine while the store does not answer."""
        try:
            files = self._remote.list_files(check_name(model, "model"))
        except StoreError as error:
            cached = self._cache.versions(model)
            if not cached:
                raise
            _log.warning("the store does not answer: the versions on this machine are taken for all (%s)", error)
            return cached
        found = [path.removesuffix(f"/{MANIFEST}") for path in files if path.endswith(f"/{MANIFEST}")]
        return sorted(name for name in found if is_name(name))

    def manifest(self, model: str, version: str) -> Manifest:
        """Return a version's manifest; raises BundleError."""
        known = self._manifests.get((model, version))
        if known is None:
            try:
                known = self._parsed(self._manifest_bytes(model, version), model, version)
            except StoreError:
                known = self._cached_manifest(model, version)
                if known is None:
                    raise
            self._manifests[model, version] = known
        return known

    def fetch(self, model: str, version: str) -> Path:
        """Return a copy of a version that was verified; it may be removed once newer ones are fetched."""
        return self.read(model, version).path

    def read(self, model: str, version: str) -> Bundle:
        """Return a version from its copy, which is made or made anew where need be; raises BundleError."""
        check_name(model, "model")
        lease = self._cache.hold(model, check_name(version, "version"))
        wanted = self._wanted(model, version)
        with self._cache.turn(model, version):
            bundle = self._cached(model, version, wanted)
            if bundle is None:
                bundle = self._copied(model, version, wanted or self._manifest_bytes(model, version))
        self._cache.prune(model, _KEPT)
        return replace(bundle, lease=lease)

    def staging_folder(self, model: str) -> Path:
        """Return a fresh name on this machine; raises StoreError."""
        return self._cache.staging_folder(check_name(model, "model"))

    def publish(self, staged: Path, version: str) -> Path:
        """Upload a staged bundle, its manifest last, and keep it as this machine's copy; raises BundleError."""
        model = staged.parent.name
        folder = f"{check_name(model, 'model')}/{check_name(version, 'version')}"
        try:
            with contextlib.suppress(BundleNotFoundError):
                self._remote.size(f"{folder}/{MANIFEST}", MOST_BYTES)
                raise BundleExistsError(f"{self.location}/{folder} is in the store already")
            for name in read_manifest(staged).files:
                self._remote.upload(staged / name, f"{folder}/{name}")
            self._remote.create(f"{folder}/{MANIFEST}", (staged / MANIFEST).read_bytes())
            return self._cache.put(staged, model, version)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def remove(self, model: str, version: str) -> None:
        """Remove a version, its manifest first; raises BundleError."""
        folder = f"{check_name(model, 'model')}/{check_name(version, 'version')}"
        if self._remote.is_link(folder):
            raise StoreError(f"{self.location}/{folder} is a link, not a version's folder: it is left alone")
        self._remote.remove(f"{folder}/{MANIFEST}")
        self._remote.remove_folder(folder)
        self._manifests.pop((model, version), None)

    def remove_leftovers(self, model: str) -> list[str]:
        """Remove what uploads and removals that were cut short left more than a day ago; return the versions."""
        files = defaultdict(set)
        for path in self._remote.list_files(check_name(model, "model")):
            version, _, name = path.partition("/")
            files[version].add(name)
        halves = [
            version for version, names in files.items() if _VERSION.fullmatch(version) and MANIFEST not in names
        ]
        old = sorted(version for version in halves if self._is_old(f"{model}/{version}", files[version]))
        for version in old:
            self._remote.remove_folder(f"{model}/{version}")
        return old

    def _is_old(self, folder: str, names: set[str]) -> bool:
        """Whether a folder holds nothing but a bundle's files, none of which was written lately."""
        if not names <= _FILES:
            return False
        written = [self._remote.modified(f"{folder}/{name}") for name in names]
        return all(moment and (datetime.now(UTC) - moment).total_seconds() > LEFTOVER_S for moment in written)

    def _wanted(self, model: str, version: str) -> bytes | None:
        """Return the manifest that the store holds now, None where it does not answer and there is a copy."""
        try:
            return self._manifest_bytes(model, version)
        except StoreError as error:
            if not self._cache.path(model, version).exists():
                raise
            _log.warning("the store does not answer: the copy on this machine is taken (%s)", error)
            return None

    def _cached(self, model: str, version: str, wanted: bytes | None = None) -> Bundle | None:
        """Return the copy on this machine, if it is whole and of the manifest that is wanted."""
        path = self._cache.path(model, version)
        if not path.exists():
            return None
        try:
            if wanted is None or (path / MANIFEST).read_bytes() == wanted:
                return read_version(path, model, version)
            _log.warning("the copy of version %s is another one than the store's: it is fetched anew", version)
        except (BundleError, OSError) as error:
            _log.warning("the copy of version %s is damaged: it is fetched anew (%s)", version, error)
        return None

    def _cached_manifest(self, model: str, version: str) -> Manifest | None:
        try:
            return read_manifest(self._cache.path(model, version))
        except BundleError:
            return None

    def _copied(self, model: str, version: str, wanted: bytes) -> Bundle:
        """Download a version beside, verify it, and put it in."""
        manifest = self._parsed(wanted, model, version)
        check_files(manifest, f"{self.location}/{model}/{version}/{MANIFEST}")
        staged = self._cache.staging_folder(model)
        try:
            with _or_no_room(staged):
                staged.mkdir()
                for name, digest in manifest.files.items():
                    self._download(f"{model}/{version}", name, digest, staged)
                _write(staged / MANIFEST, [wanted])
                sync_folder(staged)
            read_version(staged, model, version)
            return read_version(self._cache.put(staged, model, version), model, version)
        except BundleNotFoundError as error:
            self._manifest_bytes(model, version)  # gone altogether, rather than damaged?
            raise BundleCorruptError(str(error)) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _download(self, folder: str, name: str, digest: str, staged: Path) -> None:
        found = _write(staged / name, self._remote.chunks(f"{folder}/{name}", MOST_FILE_BYTES))
        if found != digest:
            raise BundleCorruptError(f"{self.location}/{folder}/{name} is not the file that was published")

    def _manifest_bytes(self, model: str, version: str) -> bytes:
        path = f"{check_name(model, 'model')}/{check_name(version, 'version')}/{MANIFEST}"
        return self._remote.read(path, MOST_BYTES)

    def _parsed(self, data: bytes, model: str, version: str) -> Manifest:
        manifest = Manifest.from_bytes(data, f"{self.location}/{model}/{version}/{MANIFEST}")
        check_identity(manifest, model, version)
        return manifest


def _write(path: Path, parts: "Iterator[bytes] | list[bytes]") -> str:
    """Write a file, sync it, and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for part in parts:
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


@contextlib.contextmanager
def _or_no_room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"the cache of bundles in {folder.parent} cannot be written: {error.strerror}") from error
