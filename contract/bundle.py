"""A model bundle on disk: the one bridge from training to serving.

A bundle is the directory `<store>/<model>/<version>/`. It is written under a temporary name, synced and
renamed, so it is whole or absent; every file but the manifest is hashed in the manifest; nothing in it is a
pickle.

    manifest.json       what the bundle is, and the SHA-256 of every other file
    item_encoder.onnx   vocabulary row, tags, embedding -> the item's row in each table
    ranker.onnx         the tables, candidate rows, history rows, levels -> scores
    explain.onnx        the same inputs -> attention weights (folded bundles only)
    vocabulary.npy      the item id of each vocabulary row
    golden.npz          items and rows with the scores that the trained model gave them, in float64

    BundleError
    ├── BundleNotFoundError      no such model or version
    ├── BundleCorruptError       a file is missing, truncated, changed or unreadable
    └── BundleExistsError        the version to publish is there already
"""

import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from contract.files import sync_folder
from contract.manifest import Manifest

MANIFEST = "manifest.json"
ITEM_ENCODER = "item_encoder.onnx"
RANKER = "ranker.onnx"
EXPLAIN = "explain.onnx"
VOCABULARY = "vocabulary.npy"
GOLDEN = "golden.npz"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class BundleError(Exception):
    """A bundle cannot be read or written."""


class BundleNotFoundError(BundleError):
    """The store holds no such model or version."""


class BundleCorruptError(BundleError):
    """A bundle's files are not the ones that were published."""


class BundleExistsError(BundleError):
    """The version to publish is in the store already."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Items and rankings with the outputs that the trained model gave them in float64.

    Golden item g lies in table row g + 1; row 0 is padding and stands for unknown items. Shapes: G items,
    U users, N candidates, H history length, T tag slots, F embedding width.
    """

    item_id: NDArray[np.int64]  # (G,)
    tags: NDArray[np.int64]  # (G, T)
    embedding: NDArray[np.float32]  # (G, F)
    candidate_rows: NDArray[np.int64]  # (U, N)
    history_rows: NDArray[np.int64]  # (U, H)
    levels: NDArray[np.int64]  # (U, N, 2)
    scores: NDArray[np.float64]  # (U, N)
    weights: NDArray[np.float64]  # (U, N, H)

    def to_bytes(self) -> bytes:
        """Return the arrays as an uncompressed npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Golden":
        """Read an npz file; raises BundleCorruptError where it is not one."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except Exception as error:
            raise BundleCorruptError(f"{GOLDEN} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and verified."""

    path: Path
    manifest: Manifest
    vocabulary: NDArray[np.int64]  # (num_items,): the item id of each vocabulary row; row 0 is padding
    golden: Golden

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.manifest.version

    def graph(self, name: str) -> bytes:
        """Return the serialised graph `name` (ITEM_ENCODER, RANKER or EXPLAIN)."""
        if name not in self.manifest.files:
            raise BundleNotFoundError(f"bundle {self.version} has no {name}")
        return _read_verified(self.path, name, self.manifest.files[name])


def check_name(name: str, what: str = "name") -> str:
    """Return a model or version name that is safe as a folder's name; raises BundleError otherwise."""
    if not _NAME.fullmatch(name):
        raise BundleError(f"{what} {name!r} is not valid: 1 to 128 of A-Z a-z 0-9 . _ -, a letter or digit first")
    return name


def new_version(now: datetime, digest: str) -> str:
    """Return a version that sorts by time: UTC to the millisecond and the start of a content hash."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z-{digest[:8]}"


def list_versions(store: Path, model: str) -> list[str]:
    """Return the versions of a model, oldest first; an unknown model has none."""
    folder = store / check_name(model, "model")
    if not folder.is_dir():
        return []
    found = [entry.name for entry in folder.iterdir() if (entry / MANIFEST).is_file()]
    return sorted(name for name in found if _NAME.fullmatch(name))


def read_manifest(path: Path) -> Manifest:
    """Read and validate the manifest of the bundle at `path`, without its other files.

    Raises
    ------
    BundleNotFoundError
        There is no bundle.
    BundleCorruptError
        The manifest is not valid, is of another format, or its schema is not the one that was hashed.
    """
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError as error:
        raise BundleNotFoundError(f"no bundle at {path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise BundleCorruptError(f"{path / MANIFEST} is not valid: {where}: {first['msg']}") from error
    if manifest.features.digest() != manifest.features_sha256:
        raise BundleCorruptError(f"{path / MANIFEST}: the schema is not the one that was published")
    return manifest


def read_bundle(path: Path) -> Bundle:
    """Read the bundle at `path` and verify every file against its hash.

    Raises
    ------
    BundleNotFoundError
        There is no bundle.
    BundleCorruptError
        A file is missing, truncated or not the one that was published.
    """
    manifest = read_manifest(path)
    missing = {ITEM_ENCODER, RANKER, VOCABULARY, GOLDEN} - manifest.files.keys()
    if missing:
        raise BundleCorruptError(f"{path / MANIFEST} lists no {', '.join(sorted(missing))}")
    contents = {name: _read_verified(path, name, digest) for name, digest in manifest.files.items()}
    vocabulary = _read_vocabulary(path, contents[VOCABULARY], manifest.features.num_items)
    golden = Golden.from_bytes(contents[GOLDEN])
    if not golden.scores.size or golden.scores.shape != golden.candidate_rows.shape:
        raise BundleCorruptError(f"{path / GOLDEN} holds no scores to check against")
    return Bundle(path, manifest, vocabulary, golden)


def _read_vocabulary(path: Path, data: bytes, num_items: int) -> NDArray[np.int64]:
    try:
        vocabulary = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy has many words for a file that is not one of its own
        raise BundleCorruptError(f"{path / VOCABULARY} cannot be read: {error}") from error
    if vocabulary.shape != (num_items,) or vocabulary.dtype != np.int64:
        raise BundleCorruptError(f"{path / VOCABULARY} does not hold {num_items} item ids")
    if len(np.unique(vocabulary[1:])) != num_items - 1:
        raise BundleCorruptError(f"{path / VOCABULARY} holds an item id twice")
    whole: NDArray[np.int64] = vocabulary
    return whole


def _read_verified(path: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name:
        raise BundleCorruptError(f"{path / MANIFEST} names a file outside the bundle: {name!r}")
    try:
        data = (path / name).read_bytes()
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
    everything = {**contents, MANIFEST: manifest.model_dump_json(indent=2).encode()}
    for name, data in everything.items():
        with (folder / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def staging_folder(store: Path, model: str) -> Path:
    """Return a fresh name beside the versions of `model`, one that never counts as a version."""
    return store / check_name(model, "model") / f".staging-{uuid.uuid4().hex}"


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
