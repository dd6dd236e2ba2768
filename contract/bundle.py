"""A model bundle on disk: the one bridge from training to serving.

A bundle is the directory `<store>/<model>/<version>/`. It is written under a temporary name, synced and
renamed, so it is whole or absent; every file is hashed in the manifest; nothing in it is a pickle. What is read is
not trusted: files are read up to a size, from the folder alone, and a graph that names further files is refused.

    manifest.json       what the bundle is, and the SHA-256 of every other file
    item_encoder.onnx   vocabulary row, tags, embedding -> the item's row in each table
    ranker.onnx         the tables, candidate rows, history rows, levels -> scores
    explain.onnx        the same inputs -> attention weights (folded bundles only)
    vocabulary.npy      the item id of each vocabulary row
    golden.npz          items and rows with the scores that the trained model gave them, in float64
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.arrays import ArrayFileError, read_npy
from contract.bundle_errors import (
    BundleCorruptError,
    BundleError,
    BundleExistsError,
    BundleNotFoundError,
    StoreError,
)
from contract.files import UnfitFileError, read_inside, sync_folder
from contract.golden import GOLDEN, Golden
from contract.graphfile import GraphFileError, check_self_contained
from contract.leftovers import new_staging
from contract.manifest import MOST_BYTES, Manifest
from contract.names import check_name, is_name, new_version

__all__ = [
    "EXPLAIN",
    "GOLDEN",
    "ITEM_ENCODER",
    "MANIFEST",
    "MOST_FILE_BYTES",
    "RANKER",
    "VOCABULARY",
    "Bundle",
    "BundleCorruptError",
    "BundleError",
    "BundleExistsError",
    "BundleNotFoundError",
    "Golden",
    "StoreError",
    "check_files",
    "check_name",
    "hash_files",
    "is_name",
    "list_versions",
    "new_version",
    "publish",
    "read_bundle",
    "read_manifest",
    "stage",
    "staging_folder",
]

MANIFEST = "manifest.json"
ITEM_ENCODER = "item_encoder.onnx"
RANKER = "ranker.onnx"
EXPLAIN = "explain.onnx"
VOCABULARY = "vocabulary.npy"

MOST_FILE_BYTES = 2**31
"""Of one file: as large as protobuf lets a graph be."""
_MOST_GOLDEN_BYTES = 2**28
_MOST_FILES = 64


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified."""

    path: Path
    manifest: Manifest
    vocabulary: NDArray[np.int64]  # (num_items,): the item id of each vocabulary row; row 0 is padding
    golden: Golden
    lease: object = field(default=None, repr=False, compare=False)
    """Keeps the files where they are for as long as the bundle is there, where they could vanish."""

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.manifest.version

    def graph(self, name: str) -> bytes:
        """Return the serialised graph `name` (ITEM_ENCODER, RANKER or EXPLAIN)."""
        if name not in self.manifest.files:
            raise BundleNotFoundError(f"bundle {self.version} has no {name}")
        return _read_verified(self.path, name, self.manifest.files[name])


def list_versions(store: Path, model: str) -> list[str]:
    """Return the versions of a model, oldest first; an unknown model has none."""
    folder = store / check_name(model, "model")
    if not folder.is_dir():
        return []
    found = [entry.name for entry in folder.iterdir() if (entry / MANIFEST).is_file()]
    return sorted(name for name in found if is_name(name))


def read_manifest(path: Path) -> Manifest:
    """Read and validate the manifest of the bundle at `path`, without its other files.

    Raises
    ------
    BundleNotFoundError
        There is no bundle.
    BundleCorruptError
        The manifest is not valid, is of another format, or its schema is not the one that was hashed.
    """
    where = str(path / MANIFEST)
    try:
        data = read_inside(path, MANIFEST, MOST_BYTES)
    except UnfitFileError as error:
        raise BundleCorruptError(f"{where} is not valid: {error}") from error
    except OSError as error:
        raise BundleNotFoundError(f"no bundle at {path}: {error.strerror or error}") from error
    return Manifest.from_bytes(data, where)


def read_bundle(path: Path) -> Bundle:
    """Read the bundle at `path` and verify every file against its hash.

    Raises
    ------
    BundleNotFoundError
        There is no bundle.
    BundleCorruptError
        A file is missing, truncated or not the one that was published, or leads out of the bundle.
    """
    manifest = read_manifest(path)
    check_files(manifest, str(path / MANIFEST))
    for name, digest in manifest.files.items():
        if name not in (VOCABULARY, GOLDEN):
            _check_file(path, name, digest)
    vocabulary = _read_vocabulary(path, manifest)
    golden = Golden.from_bytes(_read_verified(path, GOLDEN, manifest.files[GOLDEN], _MOST_GOLDEN_BYTES))
    golden.check(manifest.features)
    return Bundle(path, manifest, vocabulary, golden)


def check_files(manifest: Manifest, where: str) -> None:
    """Raise BundleCorruptError unless a manifest lists the files that every bundle has, and none elsewhere."""
    missing = {ITEM_ENCODER, RANKER, VOCABULARY, GOLDEN} - manifest.files.keys()
    if missing:
        raise BundleCorruptError(f"{where} lists no {', '.join(sorted(missing))}")
    if len(manifest.files) > _MOST_FILES:
        raise BundleCorruptError(f"{where} lists more than {_MOST_FILES} files")
    for name in manifest.files:
        if not is_name(name) or name == MANIFEST:
            raise BundleCorruptError(f"{where} names a file outside the bundle: {name[:200]!r}")


def _check_file(path: Path, name: str, digest: str) -> None:
    data = _read_verified(path, name, digest)
    if name.endswith(".onnx"):
        try:
            check_self_contained(data)
        except GraphFileError as error:
            raise BundleCorruptError(f"{path / name} is no graph that can be served: {error}") from error


def _read_vocabulary(path: Path, manifest: Manifest) -> NDArray[np.int64]:
    num_items = manifest.features.num_items
    data = _read_verified(path, VOCABULARY, manifest.files[VOCABULARY])
    try:
        vocabulary: NDArray[np.int64] = read_npy(data, np.int64)
    except ArrayFileError as error:
        raise BundleCorruptError(f"{path / VOCABULARY} cannot be read: {error}") from error
    if vocabulary.shape != (num_items,):
        raise BundleCorruptError(f"{path / VOCABULARY} does not hold {num_items} item ids")
    ascending = np.sort(vocabulary[1:])
    if (ascending[1:] == ascending[:-1]).any():
        raise BundleCorruptError(f"{path / VOCABULARY} holds an item id twice")
    return vocabulary


def _read_verified(path: Path, name: str, digest: str, most_bytes: int = MOST_FILE_BYTES) -> bytes:
    try:
        data = read_inside(path, name, most_bytes)
    except OSError as error:
        raise BundleCorruptError(f"{path / name} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleCorruptError(f"{path / name} is not the file that was published ({len(data)} bytes)")
    return data


def hash_files(contents: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each file, as the manifest lists them."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())}


def stage(folder: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Write all files of a bundle into `folder` and sync them to disk; the folder is not a version yet."""
    folder.mkdir(parents=True)
    everything = {**contents, MANIFEST: manifest.to_bytes()}
    for name, data in everything.items():
        with (folder / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def staging_folder(store: Path, model: str) -> Path:
    """Return a fresh name beside the versions of `model`, one that never counts as a version."""
    return new_staging(store / check_name(model, "model"))


def publish(staged: Path, version: str) -> Path:
    """Make a staged bundle a version: one rename, so that it is there whole or not at all.

    Raises
    ------
    BundleExistsError
        The version is in the store already; the staged folder is removed.
    """
    target = staged.parent / check_name(version, "version")
    try:
        staged.rename(target)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        if target.exists():
            raise BundleExistsError(f"{target} is in the store already") from error
        raise
    sync_folder(target.parent)
    return target
