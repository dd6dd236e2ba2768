"""What runs a graph's fused operations: kernels where there are some for it, and its own bodies elsewhere."""

import contextlib
import gc
import logging
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from contract.bundle import ITEM_ENCODER, RANKER, Bundle, read_bundle
from contract.graphfile import Weight
from export.exporter import export_model
from kernels.library import KernelLibrary, find_library
from kernels.sources import SOURCES
from scoring.device import BODY, CUDA, _borrowed, open_fused, open_session
from scoring.errors import GraphError, KernelError
from scoring.scorer import Scorer
from tests.fakes import make_bundle, make_items, make_trained

OPS = ("qin.SparseTargetAttention", "qin.QuadraticTower")

VERSION_1 = """
    <ir_version: 10, opset_import: ["": 20, "qin": 1]>
    old (float[U,N,D] target, float[U,H,D] key, float[U,H,D] value, float[L,D,D] weight, float[L,D] bias,
         float[L,D] shift, float[L,1] slope, float[D,1] output_weight, float[1] output_bias) => (float[U,N] scores)
    {
        x = qin.SparseTargetAttention (target, key, value, target)
        scores = qin.QuadraticTower (x, weight, bias, shift, slope, output_weight, output_bias)
    }
    <domain: "qin", opset_import: ["": 20]>
    SparseTargetAttention (target, key, value, residual) => (pooled)
    {
        key_columns = Transpose <perm = [0, 2, 1]> (key)
        products = MatMul (target, key_columns)
        weights = Relu (products)
        summed = MatMul (weights, value)
        pooled = Add (summed, residual)
    }
    <domain: "qin", opset_import: ["": 20]>
    QuadraticTower (x, weight, bias, shift, slope, output_weight, output_bias) => (scores)
    {
        output = MatMul (x, output_weight)
        last_axis = Constant <value_ints = [-1]> ()
        logit = Squeeze (output, last_axis)
        scores = Sigmoid (logit)
    }
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A published bundle of random weights."""
    return read_bundle(make_bundle(tmp_path_factory.mktemp("store")))


@pytest.fixture
def library() -> Iterator[KernelLibrary]:
    """The built kernels, left as they were found."""
    path = find_library()
    if path is None:
        pytest.skip("no kernel library was built")
    library = KernelLibrary(path)
    yield library
    library.use("auto")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no kernels were compiled."""
    monkeypatch.setattr("scoring.device.find_library", lambda: None)


def spoil(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Put a file that is no library where the library is looked for."""
    path.write_bytes(b"\x7fELF" + bytes(5000))
    monkeypatch.setattr("scoring.device.find_library", lambda: path)


def golden_scores(scorer: Scorer) -> np.ndarray:
    """The scores of the bundle's own rankings."""
    golden = scorer.bundle.golden
    tables = scorer.new_tables(len(golden.item_id) + 1)
    encoded, _ = scorer.encode(golden.item_id, golden.tags, golden.embedding)
    tables.write(np.arange(1, len(golden.item_id) + 1), encoded)
    return scorer.score(tables, golden.candidate_rows, golden.history_rows, golden.levels)


def test_with_the_library_every_fused_operation_runs_by_a_kernel(bundle: Bundle, library: KernelLibrary):
    """The scorer says which instruction set each kernel is made for, and computes what the trained model did."""
    for instruction_set in library.instruction_sets:
        library.use(instruction_set)
        scorer = Scorer(bundle, "cpu", 1, require_kernels=True)
        assert scorer.kernels == dict.fromkeys(OPS, instruction_set)
        scorer.verify()


def test_without_the_library_everything_runs_by_bodies(bundle: Bundle, no_library: None):
    """It is no error, the scorer says so, and computes the same."""
    scorer = Scorer(bundle, "cpu", 1)
    assert scorer.kernels == dict.fromkeys(OPS, BODY)
    scorer.verify()


def test_kernels_and_bodies_give_the_same_scores(bundle: Bundle, library: KernelLibrary, monkeypatch):
    """Whether they are fused changes nothing past rounding."""
    fused = golden_scores(Scorer(bundle, "cpu", 1))
    monkeypatch.setattr("scoring.device.find_library", lambda: None)
    np.testing.assert_allclose(fused, golden_scores(Scorer(bundle, "cpu", 1)), atol=2e-6)


def test_required_kernels_that_are_missing_are_an_error_that_names_the_operations(bundle: Bundle, no_library: None):
    """It tells how to get them, too."""
    with pytest.raises(KernelError, match=r"SparseTargetAttention and qin\.Q.*no kernel library was built") as caught:
        Scorer(bundle, "cpu", 1, require_kernels=True)
    assert caught.value.ops == OPS


def test_required_kernels_refuse_a_ranker_without_fused_operations(tmp_path: Path):
    """A model exported as published runs unfused, whatever was built."""
    bundle = read_bundle(export_model(make_trained(), make_items(), tmp_path, fold_weights=False))
    assert Scorer(bundle, "cpu", 1).kernels == {}
    with pytest.raises(KernelError, match="its ranker has no fused operations"):
        Scorer(bundle, "cpu", 1, require_kernels=True)


def test_a_graph_of_version_1_runs_by_its_bodies(library: KernelLibrary):
    """The operations of then took other operands; registered kernels leave them alone."""
    graph = parser.parse_model(VERSION_1).SerializeToString()
    session, kernels = open_fused(graph, OPS, "cpu", 1)
    assert kernels == dict.fromkeys(OPS, BODY)
    generator = np.random.default_rng(1)
    shapes = {
        "target": (1, 5, 4),
        "key": (1, 3, 4),
        "value": (1, 3, 4),
        "weight": (1, 4, 4),
        "bias": (1, 4),
        "shift": (1, 4),
        "slope": (1, 1),
        "output_weight": (4, 1),
        "output_bias": (1,),
    }
    operands = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    plain = open_session(graph, "cpu", 1)
    np.testing.assert_array_equal(session.run(None, operands)[0], plain.run(None, operands)[0])


def test_a_library_that_cannot_be_loaded_is_warned_about_once(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Everything runs without it, and the log is not filled with the same line."""
    spoil(monkeypatch, tmp_path / "spoiled.so")
    with caplog.at_level(logging.WARNING):
        scorers = [Scorer(bundle, "cpu", 1) for _ in range(2)]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the fused kernels cannot be used, everything runs without them: " in warning
    assert "spoiled.so" in warning
    assert scorers[1].kernels == dict.fromkeys(OPS, BODY)
    with pytest.raises(KernelError, match=r"spoiled\.so cannot be used"):
        Scorer(bundle, "cpu", 1, require_kernels=True)


def test_a_library_of_other_sources_is_used_and_warned_about_once(
    bundle: Bundle, library: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    """Someone who changed a kernel and did not compile it sees why nothing changed."""
    stale = tmp_path / "lib" / library.path.name
    stale.parent.mkdir()
    shutil.copy(library.path, stale)
    shutil.copytree(SOURCES, tmp_path / "cpu")
    (tmp_path / "cpu" / "new.h").write_text("// a change")
    monkeypatch.setattr("scoring.device.find_library", lambda: stale)
    with caplog.at_level(logging.WARNING):
        scorers = [Scorer(bundle, "cpu", 1) for _ in range(2)]
    assert BODY not in scorers[1].kernels.values()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert str(stale) in warning
    assert "was compiled from other sources than lie beside it; make kernels" in warning


def test_a_graph_that_the_kernels_refuse_runs_by_its_bodies(
    bundle: Bundle, library: KernelLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A session that does not open with the library is opened without it, with a warning that says why."""
    start = ort.InferenceSession

    def refuse(graph: bytes, options: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
        with contextlib.suppress(RuntimeError):  # an entry that was never added
            options.get_session_config_entry("qin.num_threads")
            raise ValueError("no kernel for such weights")
        return start(graph, options, providers=providers)

    monkeypatch.setattr("scoring.device.ort.InferenceSession", refuse)
    with caplog.at_level(logging.WARNING):
        _, kernels = open_fused(bundle.graph(RANKER), OPS, "cpu", 1)
    assert kernels == dict.fromkeys(OPS, BODY)
    assert "no kernel for such weights" in caplog.text


@pytest.mark.parametrize(
    ("why", "is_refused"),
    [
        ("qin.QuadraticTower: on CUDA the weights must be part of the graph", True),
        ("qin on CUDA: out of memory", False),
        ("Non-zero status code returned while running qin.QuadraticTower", False),
    ],
)
def test_on_cuda_only_a_graph_that_an_operation_refuses_runs_by_its_bodies(
    bundle: Bundle, library: KernelLibrary, monkeypatch: pytest.MonkeyPatch, why: str, is_refused: bool
):
    """What fails by chance would else be slow for as long as the version serves."""
    opened = []

    def refuse(_graph: bytes, options: ort.SessionOptions, **_: object) -> SimpleNamespace:
        opened.append(options)
        if len(opened) == 1:
            raise ValueError(why)
        return SimpleNamespace(get_providers=lambda: [CUDA], disable_fallback=lambda: None)

    monkeypatch.setattr("scoring.device.ort.InferenceSession", refuse)
    monkeypatch.setattr("scoring.device._library_for", lambda _: library)
    if is_refused:
        _, kernels = open_fused(bundle.graph(RANKER), OPS, (CUDA, {}), 1)
        assert kernels == dict.fromkeys(OPS, BODY)
    else:
        with pytest.raises(GraphError, match=why):
            open_fused(bundle.graph(RANKER), OPS, (CUDA, {}), 1)
    assert len(opened) == 1 + is_refused


def test_bytes_that_are_no_graph_are_an_error_with_the_library_too(library: KernelLibrary):
    """What fails with kernels and without them is the graph's fault."""
    with pytest.raises(GraphError, match="refuses the graph"):
        open_fused(b"not a graph", OPS, "cpu", 1)


def test_a_session_with_its_weights_apart_computes_the_same(bundle: Bundle) -> None:
    """ONNX Runtime is given weights beside the graph: the encoder's rows are those of the graph as published."""
    graph, golden = bundle.graph(ITEM_ENCODER), bundle.golden
    inputs = {
        "vocabulary_row": np.arange(len(golden.item_id)) % len(bundle.vocabulary),
        "tags": golden.tags.astype(np.int64) % bundle.manifest.features.num_tags,
        "embedding": golden.embedding,
    }
    apart, whole = open_session(graph, "cpu", 1), ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for one, other in zip(apart.run(None, inputs), whole.run(None, inputs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_live_as_long_as_their_session(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session only borrows them; they go with it, not before and not later."""
    values: list[weakref.ref[object]] = []

    def borrowed(weight: Weight) -> ort.OrtValue:
        value = _borrowed(weight)
        values.append(weakref.ref(value))
        return value

    monkeypatch.setattr("scoring.device._borrowed", borrowed)
    session = open_session(bundle.graph(RANKER), "cpu", 1)
    gc.collect()
    assert values
    assert all(value() is not None for value in values)
    del session
    gc.collect()
    assert all(value() is None for value in values)


def test_a_weight_that_nothing_reads_is_no_error(bundle: Bundle) -> None:
    """ONNX Runtime drops it while it loads the graph, and is not given it then."""
    model = onnx.load_from_string(bundle.graph(ITEM_ENCODER))
    unread = model.graph.initializer.add()
    unread.name, unread.data_type, unread.raw_data = "unread", onnx.TensorProto.FLOAT, bytes(4096)
    unread.dims.append(1024)
    session = open_session(model.SerializeToString(), "cpu", 1)
    assert {node.name for node in session.get_outputs()} == {spec.name for spec in bundle.manifest.tables}


@pytest.mark.parametrize("dimension", [7, 2**40, 2**63])
def test_weights_of_another_size_are_the_graphs_error(bundle: Bundle, dimension: int) -> None:
    """A shape that its numbers do not fill is refused by ONNX Runtime, whoever reads them."""
    model = onnx.load_from_string(bundle.graph(ITEM_ENCODER))
    tensor = next(each for each in model.graph.initializer if len(each.raw_data) >= 1024)
    tensor.dims[0] = dimension if dimension < 2**63 else dimension - 2**64
    with pytest.raises(GraphError, match="refuses the graph"):
        open_session(model.SerializeToString(), "cpu", 1)
