"""Bundles damaged in every way that was thought of, and in many that were not: found, or without meaning."""

import contextlib
import io
import json
import os
import shutil
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from contract.arrays import ArrayFileError, read_npy, read_npz
from contract.bundle import (
    GOLDEN,
    ITEM_ENCODER,
    MANIFEST,
    RANKER,
    VOCABULARY,
    Bundle,
    BundleCorruptError,
    BundleError,
    Golden,
    hash_files,
    read_bundle,
)
from contract.graphfile import GraphFileError, check_self_contained
from contract.manifest import seal
from contract.schema import Schema
from contract.store import open_store
from tests.contract.stores import location
from tests.fakes import make_bundle

FILES = [MANIFEST, ITEM_ENCODER, RANKER, "explain.onnx", VOCABULARY, GOLDEN]
NAMES = st.sampled_from(["../x", "/etc/passwd", "..", ".", "a/b", "C:\\x", "nul\0", "\ud800", "x" * 300, "int64"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, float("inf"), float("nan")])
    | st.floats()
    | st.text(max_size=20)
    | NAMES
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
fuzzed = settings(max_examples=200, deadline=None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real bundle that no test changes."""
    return make_bundle(tmp_path_factory.mktemp("store"), num_items=20, num_tags=5)


@contextlib.contextmanager
def copied(bundle: Path) -> Iterator[Path]:
    """Lend a copy to spoil; beside it lies a file that no reader may touch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copytree(bundle, Path(folder) / "qin" / bundle.name))
        (path.parent / "outside").write_bytes((bundle / RANKER).read_bytes())
        yield path
        assert sorted(entry.name for entry in path.parent.iterdir()) == sorted([bundle.name, "outside"])


def same(found: Bundle, path: Path, original: Path) -> bool:
    """Whether a bundle is what was published, as far as anything is read of it."""
    before = read_bundle(original)
    arrays = [(found.vocabulary, before.vocabulary)]
    arrays += [(getattr(found.golden, name), getattr(before.golden, name)) for name in Golden.__slots__]
    graphs = [name for name in before.manifest.files if name.endswith(".onnx")]
    return (
        found.manifest == before.manifest
        and all(np.array_equal(one, other) for one, other in arrays)
        and all(found.graph(name) == before.graph(name) for name in graphs)
    )


def found_or_without_meaning(path: Path, original: Path) -> None:
    """The one thing that may not happen to damage: to be taken for something else, or to end a thread."""
    try:
        read = read_bundle(path)
    except BundleError:
        return
    assert same(read, path, original)


def published_again(path: Path, **changes: Any) -> None:
    """Change a manifest's fields and hash whatever it hashes, as somebody would who means harm."""
    manifest = json.loads((path / MANIFEST).read_text()) | changes
    with contextlib.suppress(Exception):
        manifest["features_sha256"] = Schema.model_validate(manifest["features"]).digest()
    (path / MANIFEST).write_text(json.dumps(manifest | {"manifest_sha256": seal(manifest)}))


def replaced(path: Path, name: str, content: bytes) -> None:
    """Exchange a file and hash it again."""
    (path / name).write_bytes(content)
    files = json.loads((path / MANIFEST).read_text())["files"]
    published_again(path, files=files | hash_files({name: content}))


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """Cut, flip, overwrite, insert or repeat some of a file's bytes."""
    at = data.draw(st.integers(0, max(len(content) - 1, 0)))
    how = data.draw(st.sampled_from(["cut", "flip", "overwrite", "insert", "repeat", "empty", "other"]))
    if how == "cut":
        return content[:at]
    if how == "flip":
        return content[:at] + bytes([content[at] ^ 1 << data.draw(st.integers(0, 7))]) + content[at + 1 :]
    if how == "empty":
        return b""
    some = data.draw(st.binary(min_size=1, max_size=16))
    if how == "other":
        return some
    if how == "insert":
        return content[:at] + some + content[at:]
    if how == "repeat":
        return content[:at] + content[max(at - 50, 0) :]
    return content[:at] + some + content[at + len(some) :]


@fuzzed
@given(data=st.data(), name=st.sampled_from([MANIFEST, *FILES]))
def test_damaged_bytes_are_found_or_mean_nothing(bundle: Path, data: st.DataObject, name: str) -> None:
    """Whatever happens to the bytes of a file, what is read is what was published, or nothing."""
    with copied(bundle) as path:
        (path / name).write_bytes(damaged((path / name).read_bytes(), data))
        found_or_without_meaning(path, bundle)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something can be replaced."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


def with_replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON value with something else at a place; `...` takes it away."""
    if not place:
        return new
    copy = value.copy()
    if len(place) == 1 and new is ...:
        del copy[place[0]]
    else:
        copy[place[0]] = with_replaced(value[place[0]], place[1:], new)
    return copy


@fuzzed
@given(data=st.data(), value=VALUES | st.just(...))
def test_a_changed_manifest_is_found_or_means_nothing(bundle: Path, data: st.DataObject, value: Any) -> None:
    """Any field of any other value, type or size, or gone: what is read is what was published, or nothing."""
    with copied(bundle) as path:
        manifest = json.loads((path / MANIFEST).read_text())
        place = data.draw(st.sampled_from([place for place in places(manifest) if place]))
        (path / MANIFEST).write_text(json.dumps(with_replaced(manifest, place, value)))
        if place == ("manifest_sha256",) and value in (None, ...):
            assert read_bundle(path).golden  # a bundle from before manifests were hashed
        else:
            found_or_without_meaning(path, bundle)


@fuzzed
@given(data=st.data(), value=VALUES | st.just(...))
def test_a_forged_manifest_is_never_another_error(bundle: Path, data: st.DataObject, value: Any) -> None:
    """Hashed again after the change, a manifest is read or refused, and leads nowhere."""
    with copied(bundle) as path:
        manifest = json.loads((path / MANIFEST).read_text())
        place = data.draw(st.sampled_from([place for place in places(manifest) if place]))
        changed = with_replaced(manifest, place, value)
        if changed is not ... and isinstance(changed, dict):
            (path / MANIFEST).write_text(json.dumps(changed))
            published_again(path)
        with contextlib.suppress(BundleError):
            read_bundle(path)


@fuzzed
@given(name=st.text(max_size=12) | st.sampled_from(["../outside", "..", "", ".", "/etc/passwd", MANIFEST, "a" * 300]))
def test_no_name_of_a_file_leads_out(bundle: Path, name: str) -> None:
    """A manifest lists files of its own folder alone, whose content it knows."""
    with copied(bundle) as path:
        files = json.loads((path / MANIFEST).read_text())["files"]
        digest = hash_files({"": (path.parent / "outside").read_bytes()})[""]
        if name in files:
            return
        published_again(path, files=files | {name: digest})
        with pytest.raises(BundleCorruptError, match=r"outside the bundle|cannot be read|is not valid"):
            read_bundle(path)


@fuzzed
@given(data=st.data(), name=st.sampled_from(FILES[1:]))
def test_forged_files_are_never_another_error(bundle: Path, data: st.DataObject, name: str) -> None:
    """Damage that was hashed again is read or refused; graphs are for the runtime to judge."""
    with copied(bundle) as path:
        replaced(path, name, damaged((path / name).read_bytes(), data))
        with contextlib.suppress(BundleError):
            read_bundle(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("target", ["../outside", "/dev/zero", "nowhere", ".", "manifest.json"])
def test_a_link_is_not_followed_out_of_the_bundle(bundle: Path, name: str, target: str) -> None:
    """Not even to content that fits."""
    with copied(bundle) as path:
        if target == "../outside":
            shutil.copy(path / name, path.parent / "outside")
        (path / name).unlink()
        (path / name).symlink_to(target)
        with pytest.raises(BundleError):
            read_bundle(path)


def test_a_link_within_the_bundle_is_a_file(bundle: Path) -> None:
    """Volumes that exchange their files at once are made of such links."""
    with copied(bundle) as path:
        (path / "data").mkdir()
        for name in FILES:
            (path / name).rename(path / "data" / name)
            (path / name).symlink_to(f"data/{name}")
        assert same(read_bundle(path), path, bundle)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_plain_file_is_not_waited_for(bundle: Path, name: str, make: Callable[[Path], None]) -> None:
    """A pipe that nobody writes to would hold its reader for ever."""
    with copied(bundle) as path:
        (path / name).unlink()
        make(path / name)
        with pytest.raises(BundleError):
            read_bundle(path)


@contextlib.contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail where the block has allocated more bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_gigabytes_is_not_read(bundle: Path, name: str) -> None:
    """What is larger than it may be is refused by its size."""
    with copied(bundle) as path, memory_below(2**25):
        os.truncate(path / name, 2**33)
        with pytest.raises(BundleCorruptError, match="more than the"):
            read_bundle(path)


def npy_claiming(shape: tuple[int, ...], descr: str = "<i8") -> bytes:
    """An npy file without numbers whose header claims a shape."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
    return file.getvalue()


def npz_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def golden_members(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle / GOLDEN) as archive:
        return {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("shape", [(20,), (2**40,), (2**62, 4), (0, 2**70), (1,) * 100, (2**64,), (-1,), (20, True)])
def test_a_header_that_claims_more_than_there_is_takes_no_memory(bundle: Path, shape: tuple[int, ...]) -> None:
    """Terabytes are claimed in a few bytes; room is made for what is there."""
    with copied(bundle) as path:
        replaced(path, VOCABULARY, npy_claiming(shape))
        replaced(path, GOLDEN, npz_of(golden_members(bundle) | {"tags": npy_claiming(shape)}))
        with memory_below(2**25), pytest.raises(BundleCorruptError, match=VOCABULARY):
            read_bundle(path)
        replaced(path, VOCABULARY, (bundle / VOCABULARY).read_bytes())
        with memory_below(2**25), pytest.raises(BundleCorruptError, match=GOLDEN):
            read_bundle(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_is_not_unpacked(bundle: Path, compression: int) -> None:
    """Golden rows are stored as they are; what is compressed is refused before it is unpacked."""
    with copied(bundle) as path:
        bomb = npy_claiming((2**24,)) + bytes(2**27)
        replaced(path, GOLDEN, npz_of(golden_members(bundle) | {"tags": bomb}, compression))
        del bomb
        with memory_below(2**25), pytest.raises(BundleCorruptError, match="is compressed"):
            read_bundle(path)


def test_a_member_that_claims_to_be_larger_than_its_file_is_refused(bundle: Path) -> None:
    """The sizes in a zip's directory are claims like any other."""
    content = npz_of(golden_members(bundle))
    size = len(golden_members(bundle)["item_id"]).to_bytes(4, "little")
    with copied(bundle) as path:
        replaced(path, GOLDEN, content.replace(size, (2**31 - 1).to_bytes(4, "little")))
        with memory_below(2**25), pytest.raises(BundleCorruptError, match=GOLDEN):
            read_bundle(path)


def test_objects_are_never_unpickled(bundle: Path) -> None:
    """An array of objects is refused by its type, before anything of it is read."""
    file = io.BytesIO()
    np.save(file, np.array([{}] * 20, dtype=object), allow_pickle=True)
    with copied(bundle) as path:
        replaced(path, VOCABULARY, file.getvalue())
        with pytest.raises(BundleCorruptError, match=r"'\|O', not int64"):
            read_bundle(path)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("candidate_rows", lambda array: array + 1000),
        ("candidate_rows", lambda array: array - 1000),
        ("history_rows", lambda array: array + 2**40),
        ("history_rows", lambda array: array[:, 1:]),
        ("levels", lambda array: array + 11),
        ("levels", lambda array: array - 11),
        ("levels", lambda array: array[..., 0]),
        ("tags", lambda array: array[:, 1:]),
        ("embedding", lambda array: array[1:]),
        ("embedding", lambda array: array * np.float32("nan")),
        ("scores", lambda array: array * np.nan),
        ("scores", lambda array: array[:0]),
        ("weights", lambda array: array[..., :0]),
        ("item_id", lambda array: array[:, None]),
    ],
)
def test_golden_rows_that_no_model_could_be_given_are_refused(
    bundle: Path, name: str, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    """A row past the tables' end would be read from memory that is not theirs."""
    golden = read_bundle(bundle).golden
    arrays = {field: getattr(golden, field) for field in Golden.__slots__}
    with copied(bundle) as path:
        replaced(path, GOLDEN, Golden(**arrays | {name: spoil(arrays[name])}).to_bytes())
        with pytest.raises(BundleCorruptError, match=GOLDEN):
            read_bundle(path)


@fuzzed
@given(content=st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: b"\x93NUMPY\x01\x00v\x00" + rest))
def test_any_bytes_are_an_array_or_refused(content: bytes) -> None:
    """The readers of arrays know one error."""
    with contextlib.suppress(ArrayFileError):
        read_npy(content, np.int64)
    with contextlib.suppress(ArrayFileError):
        read_npz(content, {"tags": np.int64})


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 5), (2, 3, 4)])
def test_arrays_are_read_as_numpy_reads_them(order: Any, shape: tuple[int, ...]) -> None:
    """Of every shape and order, and ready to be written to."""
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), order=order)
    file = io.BytesIO()
    np.save(file, array)
    read = read_npy(file.getvalue(), np.int64)
    assert np.array_equal(read, array)
    assert read.flags.writeable


def external(tensor: TensorProto, path: str) -> TensorProto:
    """Let a tensor's numbers lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return tensor


def some_tensor(path: str) -> TensorProto:
    return external(helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0]), path)


def some_graph(path: str) -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [], initializer=[some_tensor(path)])


def in_initializer(model: onnx.ModelProto, path: str) -> None:
    model.graph.initializer.append(some_tensor(path))


def in_sparse_initializer(model: onnx.ModelProto, path: str) -> None:
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(some_tensor(path), indices, [1]))


def in_attribute(model: onnx.ModelProto, path: str) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=some_tensor(path)))


def in_tensors(model: onnx.ModelProto, path: str) -> None:
    model.graph.node.append(helper.make_node("Many", [], ["c"], values=[some_tensor(path)]))


def in_subgraph(model: onnx.ModelProto, path: str) -> None:
    branches = {"then_branch": some_graph(path), "else_branch": some_graph(path)}
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], **branches))


def in_function(model: onnx.ModelProto, path: str) -> None:
    node = helper.make_node("Constant", [], ["c"], value=some_tensor(path))
    model.functions.append(helper.make_function("qin", "More", [], ["c"], [node], [helper.make_opsetid("", 18)]))


def in_training(model: onnx.ModelProto, path: str) -> None:
    model.training_info.add().initialization.CopyFrom(some_graph(path))


def in_location_alone(model: onnx.ModelProto, path: str) -> None:
    model.graph.initializer.add(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)


HIDING = [
    in_initializer,
    in_sparse_initializer,
    in_attribute,
    in_tensors,
    in_subgraph,
    in_function,
    in_training,
    in_location_alone,
]


@pytest.mark.parametrize("hide", HIDING)
@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "ranker.onnx"])
@pytest.mark.parametrize("name", [RANKER, ITEM_ENCODER])
def test_a_graph_whose_numbers_lie_elsewhere_is_refused(
    bundle: Path, hide: Callable[[onnx.ModelProto, str], None], path: str, name: str
) -> None:
    """Wherever in a graph it stands, a path is never followed; not even one within the bundle."""
    model = onnx.load_from_string((bundle / name).read_bytes())
    hide(model, path)
    with copied(bundle) as folder:
        replaced(folder, name, model.SerializeToString())
        with pytest.raises(BundleCorruptError, match=f"{name} is no graph .* in another file"):
            read_bundle(folder)


@fuzzed
@given(data=st.data())
def test_any_bytes_are_a_graph_or_refused(bundle: Path, data: st.DataObject) -> None:
    """The walk through a graph knows one error, and finds a hidden path in what the protobuf library still reads."""
    model = onnx.load_from_string((bundle / RANKER).read_bytes())
    data.draw(st.sampled_from(HIDING))(model, "../outside")
    content = damaged(model.SerializeToString(), data)
    try:
        check_self_contained(content)
    except GraphFileError:
        return
    with contextlib.suppress(Exception):
        model = onnx.load_from_string(content)
        assert not list(external_tensors(model))


def external_tensors(message: Any) -> Iterator[TensorProto]:
    """All tensors of a message, however deep, whose numbers lie elsewhere, as the protobuf library finds them."""
    if isinstance(message, TensorProto):
        if message.data_location == TensorProto.EXTERNAL or message.external_data:
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if field.is_repeated else [value]:
                yield from external_tensors(child)


def test_messages_in_messages_end_somewhere() -> None:
    """A graph of graphs of graphs does not end the interpreter."""
    attribute = graph = b""
    for _ in range(5000):
        node = b"\x2a" + varint(len(attribute)) + attribute
        graph = b"\x0a" + varint(len(node)) + node
        attribute = b"\x32" + varint(len(graph)) + graph
    with pytest.raises(GraphFileError, match="too deep"):
        check_self_contained(b"\x3a" + varint(len(graph)) + graph)


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from([MANIFEST, *FILES]))
def test_damage_in_a_store_at_a_url_is_found_or_means_nothing(bundle: Path, data: st.DataObject, name: str) -> None:
    """What comes by a URL is judged as what lies in a folder, and leaves nothing behind where it is refused."""
    import fsspec

    with tempfile.TemporaryDirectory() as folder, location("memory", Path(folder)) as url:
        system, root = fsspec.core.url_to_fs(url)
        for path in bundle.iterdir():
            content = path.read_bytes()
            content = damaged(content, data) if path.name == name else content
            system.pipe_file(f"{root}/qin/{bundle.name}/{path.name}", content)
        store = open_store(url, Path(folder), 60)
        try:
            read = store.read("qin", bundle.name)
            assert same(read, read.path, bundle)
        except BundleError:
            assert not list(Path(folder).glob(f"bundles/*/qin/{bundle.name}"))
        system.rm(root, recursive=True)


@fuzzed
@given(name=NAMES | st.text(max_size=20))
def test_names_in_a_store_at_a_url_lead_nowhere(bundle: Path, name: str) -> None:
    """Whatever a version is called, nothing is written outside of the cache, nor read outside of the store."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"file://{folder}/store", Path(folder) / "cache", 60)
        for ask in (store.read, store.manifest, store.remove):
            with pytest.raises(BundleError):
                ask("qin", name)
            with pytest.raises(BundleError):
                ask(name, "version")
        assert {path.name for path in Path(folder).iterdir()} <= {"cache"}
