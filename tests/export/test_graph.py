import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from contract.bundle import EXPLAIN, ITEM_ENCODER, RANKER
from contract.manifest import Precision
from export.fold import fold
from export.graph import folded_graphs
from export.published import published_graphs
from tests.fakes import make_items, make_trained

FUSED = ["QuadraticTower", "SparseTargetAttention"]


@pytest.fixture(scope="module")
def folded() -> dict[str, bytes]:
    """The graphs of a random folded network, layer 1 split."""
    return folded_graphs(fold(make_trained().network), split=True)


def test_the_ranker_calls_each_fused_operation_once(folded: dict[str, bytes]) -> None:
    """Attention and tower are single nodes of domain qin, so that a kernel can take them."""
    model = onnx.load_from_string(folded[RANKER])
    assert sorted(node.op_type for node in model.graph.node if node.domain == "qin") == FUSED
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 20), ("qin", 2)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("split", [False, True])
def test_the_ranker_is_those_calls_alone(split: bool, precision: Precision) -> None:
    """Nothing is left around them, so a kernel reads the tables where they lie and writes the scores."""
    graphs = folded_graphs(fold(make_trained().network), split, precision)
    nodes = onnx.load_from_string(graphs[RANKER]).graph.node
    assert [node.op_type for node in nodes] == ["SparseTargetAttention", "QuadraticTower"]
    parts = ["partial", "likes_first", "views_first"] if split else ["", "", ""]
    wanted = {"int8": [*parts, "weight_scale"]}.get(precision, parts if split else [])
    assert list(nodes[1].input)[12:] == wanted


def test_the_bodies_are_standard_onnx(folded: dict[str, bytes]) -> None:
    """A runtime that knows nothing of qin can run the file."""
    model = onnx.load_from_string(folded[RANKER])
    assert sorted(function.name for function in model.functions) == FUSED
    assert {node.domain for function in model.functions for node in function.node} == {""}


def test_the_hot_graph_never_stores_attention_weights(folded: dict[str, bytes]) -> None:
    """Weights come out of a graph of their own."""
    outputs = {name: [node.name for node in onnx.load_from_string(folded[name]).graph.output] for name in folded}
    assert outputs[RANKER] == ["scores"]
    assert outputs[EXPLAIN] == ["weights"]
    assert outputs[ITEM_ENCODER] == ["target", "key", "value", "input_part", "history_part"]


def test_the_tag_divisor_survives(folded: dict[str, bytes]) -> None:
    """An item without tags gives zeros, not NaN, also where an optimiser is tempted to drop + 1e-12."""
    encoder = ReferenceEvaluator(onnx.load_from_string(folded[ITEM_ENCODER]))
    inputs = {
        "vocabulary_row": np.zeros(1, np.int64),
        "tags": np.zeros((1, 5), np.int64),
        "embedding": np.zeros((1, 8), np.float32),
    }
    assert all(not values.any() for values in encoder.run(None, inputs))


def test_another_runtime_gives_the_same_scores(folded: dict[str, bytes]) -> None:
    """The ONNX reference evaluator, which has no kernels of ours, agrees with the published form."""
    trained, items = make_trained(), make_items()
    generator = np.random.default_rng(5)
    rows = {
        "candidate_rows": generator.integers(0, 200, (2, 9)),
        "history_rows": generator.integers(0, 200, (2, 8)),
        "levels": generator.integers(0, 11, (2, 9, 2)),
    }
    scores = []
    for graphs in (folded, published_graphs(trained.network)):
        encoder = ReferenceEvaluator(onnx.load_from_string(graphs[ITEM_ENCODER]))
        ids, tags, embedding = items.item_id.copy(), items.tags.copy(), items.embedding.copy()
        ids[0], tags[0], embedding[0] = 0, 0, 0
        tables = encoder.run(None, {"vocabulary_row": ids, "tags": tags, "embedding": embedding})
        ranker = ReferenceEvaluator(onnx.load_from_string(graphs[RANKER]))
        feeds = dict(zip((name.name for name in encoder.proto_.graph.output), tables, strict=True))
        scores.append(ranker.run(None, feeds | rows)[0])
    assert np.abs(scores[0] - scores[1]).max() < 2e-6
    assert scores[0].std() > 0.05
