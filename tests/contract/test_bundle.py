import io
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from contract.bundle import (
    GOLDEN,
    MANIFEST,
    RANKER,
    VOCABULARY,
    BundleCorruptError,
    BundleError,
    BundleExistsError,
    BundleNotFoundError,
    hash_files,
    list_versions,
    new_version,
    publish,
    read_bundle,
    read_manifest,
    stage,
    staging_folder,
)
from contract.manifest import Manifest, seal
from tests.fakes import make_bundle


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real bundle in a store of its own."""
    return make_bundle(tmp_path_factory.mktemp("store"))


@pytest.fixture
def bundle(published: Path, tmp_path: Path) -> Path:
    """Return a copy of the bundle that a test may spoil."""
    return Path(shutil.copytree(published, tmp_path / "store" / "qin" / published.name))


def test_a_published_bundle_reads_back_whole(bundle: Path) -> None:
    """Manifest, vocabulary and golden rows arrive, and every graph that the manifest lists."""
    read = read_bundle(bundle)
    assert read.version == bundle.name
    assert read.vocabulary.tolist() == list(range(200))
    assert read.golden.scores.shape == read.golden.candidate_rows.shape
    assert all(read.graph(name) for name in read.manifest.files if name.endswith(".onnx"))


@pytest.mark.parametrize("name", [RANKER, VOCABULARY, GOLDEN])
def test_a_truncated_file_is_found(bundle: Path, name: str) -> None:
    """A bundle that lost bytes is refused, and the message names the file."""
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-10])
    with pytest.raises(BundleCorruptError, match=f"{name} is not the file that was published"):
        read_bundle(bundle)


def test_a_changed_byte_is_found(bundle: Path) -> None:
    """Same length, other content: the hash tells."""
    data = bytearray((bundle / RANKER).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / RANKER).write_bytes(data)
    with pytest.raises(BundleCorruptError, match="not the file that was published"):
        read_bundle(bundle)


def test_a_missing_file_is_found(bundle: Path) -> None:
    """A file that the manifest lists and the folder lacks is named."""
    (bundle / GOLDEN).unlink()
    with pytest.raises(BundleCorruptError, match=f"{GOLDEN} cannot be read"):
        read_bundle(bundle)


def edit_manifest(bundle: Path, **changes: object) -> None:
    """Change fields and hash the manifest again, as somebody would who means it."""
    manifest = json.loads((bundle / MANIFEST).read_text()) | changes
    (bundle / MANIFEST).write_text(json.dumps(manifest | {"manifest_sha256": seal(manifest)}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": 2}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"precision": "float16"}, "precision"),
        ({"measured": {"auc": 0.5}}, "measured"),
        ({"files": {}}, "lists no"),
        ({"files": {"../../secret": "0"}}, "lists no|outside the bundle"),
    ],
)
def test_a_manifest_of_another_form_is_refused(bundle: Path, changes: dict, complaint: str) -> None:
    """Another format, unknown fields and files that are not there are errors, not guesses."""
    edit_manifest(bundle, **changes)
    with pytest.raises(BundleCorruptError, match=complaint):
        read_bundle(bundle)


def test_a_manifest_of_the_first_operations_still_reads(bundle: Path) -> None:
    """A bundle from before there were precisions is one of float32 that was not measured."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    assert manifest.pop("measured") is None
    assert manifest.pop("manifest_sha256")
    assert manifest.pop("precision") == "float32"
    manifest["qin_ops"] = {"qin.SparseTargetAttention": 1, "qin.QuadraticTower": 1}
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    read = read_manifest(bundle)
    assert (read.precision, read.measured) == ("float32", None)
    assert set(read.qin_ops.values()) == {1}


def test_what_was_measured_reads_back(bundle: Path) -> None:
    """A manifest comes back from disk as it was written."""
    measured = {"num_rows": 300, "auc": 0.75, "auc_float32": 0.7500000000000001, "max_score_error": 1e-9}
    edit_manifest(bundle, precision="int8", measured=measured)
    read = read_manifest(bundle)
    assert read.precision == "int8"
    assert read.measured is not None
    assert read.measured.model_dump() == measured
    assert Manifest.from_bytes(read.to_bytes(), "again") == read


def test_a_file_outside_the_bundle_is_refused(bundle: Path) -> None:
    """A manifest cannot lead the reader out of its folder."""
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    edit_manifest(bundle, files=files | {"../outside.onnx": "0"})
    with pytest.raises(BundleCorruptError, match="outside the bundle"):
        read_bundle(bundle)


def test_a_schema_that_was_edited_is_refused(bundle: Path) -> None:
    """The schema is hashed: one that changed after publishing is not served."""
    features = json.loads((bundle / MANIFEST).read_text())["features"]
    edit_manifest(bundle, features=features | {"history_length": 9})
    with pytest.raises(BundleCorruptError, match="the schema is not the one that was published"):
        read_manifest(bundle)


def test_a_manifest_that_is_cut_off_is_refused(bundle: Path) -> None:
    """Half a manifest is not one."""
    (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes()[:100])
    with pytest.raises(BundleCorruptError, match="not valid"):
        read_manifest(bundle)


def replace_file(bundle: Path, name: str, content: bytes) -> None:
    """Exchange a file together with its hash, as somebody would who means it."""
    (bundle / name).write_bytes(content)
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    edit_manifest(bundle, files=files | hash_files({name: content}))


def as_npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cannot be read"),
        (b"junk", "cannot be read"),
        (as_npy(np.arange(5)), "does not hold 200 item ids"),
        (as_npy(np.arange(200.0)), "cannot be read: it holds '<f8', not int64"),
        (as_npy(np.minimum(np.arange(200), 198)), "holds an item id twice"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(bundle: Path, content: bytes, complaint: str) -> None:
    """Even with a hash that fits, a vocabulary must be one."""
    replace_file(bundle, VOCABULARY, content)
    with pytest.raises(BundleCorruptError, match=complaint):
        read_bundle(bundle)


def test_a_bundle_with_nothing_to_check_is_refused(bundle: Path) -> None:
    """Golden rows without a row would let any graph pass."""
    golden = read_bundle(bundle).golden
    empty = replace(golden, scores=golden.scores[:0], candidate_rows=golden.candidate_rows[:0])
    replace_file(bundle, GOLDEN, empty.to_bytes())
    with pytest.raises(BundleCorruptError, match="no scores to check"):
        read_bundle(bundle)


def test_no_bundle_is_told_from_a_corrupt_one(tmp_path: Path) -> None:
    """A version that is not there is an error of its own."""
    with pytest.raises(BundleNotFoundError):
        read_bundle(tmp_path / "qin" / "nothing")


def test_versions_are_listed_oldest_first_and_staging_is_not_among_them(bundle: Path) -> None:
    """A bundle that is still being written does not count."""
    store = bundle.parent.parent
    read = read_bundle(bundle)
    stage(staging_folder(store, "qin"), read.manifest, {})
    shutil.copytree(bundle, bundle.parent / "20990101T000000000Z-00000000")
    assert list_versions(store, "qin") == [bundle.name, "20990101T000000000Z-00000000"]
    assert list_versions(store, "other") == []


def test_a_version_is_never_published_twice(bundle: Path) -> None:
    """The first one stays, the second leaves nothing behind."""
    store = bundle.parent.parent
    staged = staging_folder(store, "qin")
    stage(staged, read_manifest(bundle), {})
    with pytest.raises(BundleExistsError):
        publish(staged, bundle.name)
    assert not staged.exists()
    read_bundle(bundle)


@pytest.mark.parametrize("name", ["..", "../up", "a/b", "", ".hidden", "a" * 129, "nul\0"])
def test_names_cannot_leave_the_store(tmp_path: Path, name: str) -> None:
    """A model or version name is a plain folder name."""
    with pytest.raises(BundleError, match="not valid"):
        list_versions(tmp_path, name)


def test_versions_sort_by_time() -> None:
    """A later export is a later version, whatever its content."""
    first = new_version(datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC), "ff" * 32)
    second = new_version(datetime(2026, 1, 2, 3, 4, 5, 679_000, tzinfo=UTC), "00" * 32)
    assert first == "20260102T030405678Z-ffffffff"
    assert first < second


def test_the_golden_file_holds_arrays_alone(bundle: Path) -> None:
    """No array of objects, so nothing to unpickle."""
    with np.load(bundle / GOLDEN, allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} <= {"i", "f"}
