from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from contract.bundle import Bundle, read_bundle
from scoring.device import open_session
from scoring.errors import DeviceError, GraphError, ParityError
from scoring.scorer import Scorer
from scoring.tables import Tables
from tests.fakes import make_bundle, make_items

NUM_ITEMS, HISTORY = 200, 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A published bundle of random weights."""
    return read_bundle(make_bundle(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    """The bundle on the CPU, on one thread."""
    return Scorer(bundle, "cpu", num_threads=1)


@pytest.fixture(scope="module")
def tables(scorer: Scorer) -> Tables:
    """Item i of the catalogue in table row i + 1."""
    items = make_items()
    filled = scorer.new_tables(NUM_ITEMS + 1)
    encoded, _ = scorer.encode(items.item_id, items.tags, items.embedding)
    filled.write(np.arange(1, NUM_ITEMS + 1), encoded)
    return filled


def draw(users: int, candidates: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, NUM_ITEMS + 1, (users, candidates)),
        generator.integers(0, NUM_ITEMS + 1, (users, HISTORY)),
        generator.integers(0, 11, (users, candidates, 2)),
    )


def test_users_in_one_run_get_what_each_would_get_alone(scorer: Scorer, tables: Tables) -> None:
    """Batching users changes no score."""
    candidates, history, levels = draw(3, 20)
    together = scorer.score(tables, candidates, history, levels)
    for user in range(3):
        one = slice(user, user + 1)
        alone = scorer.score(tables, candidates[one], history[one], levels[one])
        np.testing.assert_allclose(together[one], alone, atol=1e-6)


def test_a_score_depends_on_no_other_candidate(scorer: Scorer, tables: Tables) -> None:
    """Permuting the candidates permutes the scores."""
    candidates, history, levels = draw(1, 50)
    order = np.random.default_rng(2).permutation(50)
    straight = scorer.score(tables, candidates, history, levels)
    permuted = scorer.score(tables, candidates[:, order], history, levels[:, order])
    np.testing.assert_allclose(permuted, straight[:, order], atol=1e-6)
    assert straight.std() > 0.05


def test_the_order_of_a_history_does_not_matter_and_padding_is_nothing(scorer: Scorer, tables: Tables) -> None:
    """Attention sums over a set; row 0 adds nothing wherever it stands."""
    candidates, _, levels = draw(1, 10)
    left = scorer.score(tables, candidates, np.array([[0, 0, 0, 0, 0, 3, 9, 4]]), levels)
    spread = scorer.score(tables, candidates, np.array([[4, 0, 0, 9, 0, 0, 3, 0]]), levels)
    np.testing.assert_allclose(spread, left, atol=1e-6)


def test_an_unknown_tag_is_dropped_and_counted(scorer: Scorer) -> None:
    """A tag that the vocabulary lacks leaves the item as if it were not there."""
    embedding = np.ones((1, 8), np.float32)
    with_it, num_unknown = scorer.encode(np.array([5]), np.array([[3, 50, 0, 2**31 - 1, 0]]), embedding)
    without, num_known = scorer.encode(np.array([5]), np.array([[3, 0, 0, 0, 0]]), embedding)
    assert (num_unknown, num_known) == (2, 0)
    assert all(np.array_equal(with_it[name], without[name]) for name in with_it)


def test_a_cold_item_keeps_its_tags_and_embedding(scorer: Scorer) -> None:
    """An id that training never saw has a zero id part, and only that."""
    tags, embedding = np.array([[3, 4, 0, 0, 0]]), np.ones((1, 8), np.float32)
    cold, _ = scorer.encode(np.array([10**12]), tags, embedding)
    known, _ = scorer.encode(np.array([7]), tags, embedding)
    assert not cold["target"][0, :8].any()
    assert known["target"][0, :8].any()
    assert np.array_equal(cold["target"][0, 8:], known["target"][0, 8:])


def test_explanations_are_the_weights_of_attention(scorer: Scorer, tables: Tables) -> None:
    """One weight per candidate and history item, never negative, zero on padding."""
    candidates, history, levels = draw(2, 5)
    history[:, :3] = 0
    weights = scorer.explain(tables, candidates, history, levels)
    assert weights.shape == (2, 5, HISTORY)
    assert (weights >= 0).all()
    assert not weights[:, :, :3].any()
    assert weights.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_golden_scores_that_are_none_never_pass(bundle: Bundle, value: float) -> None:
    """A comparison with NaN is false both ways: it counts as off."""
    scores = bundle.golden.scores.copy()
    scores[0, 0] = value
    spoiled = replace(bundle, golden=replace(bundle.golden, scores=scores))
    with pytest.raises(ParityError, match="scores is off"):
        Scorer(spoiled).verify()


def test_encoding_nothing_gives_tables_of_no_rows(scorer: Scorer) -> None:
    """An empty catalogue is legal."""
    encoded, _ = scorer.encode(np.zeros(0, np.int64), np.zeros((0, 5), np.int64), np.zeros((0, 8), np.float32))
    assert all(values.shape[0] == 0 for values in encoded.values())


@pytest.mark.skipif(bool(ort.get_device() == "GPU" and Path("/dev/nvidiactl").exists()), reason="a GPU is here")
def test_cuda_is_never_replaced_silently(bundle: Bundle) -> None:
    """Asked for CUDA on a machine without it, the scorer refuses; auto takes the CPU."""
    with pytest.raises(DeviceError, match="CUDA"):
        Scorer(bundle, "cuda")
    assert Scorer(bundle, "auto").provider == "CPUExecutionProvider"


def test_a_graph_that_is_none_is_an_error_of_its_own() -> None:
    """Bytes that are no graph say so."""
    with pytest.raises(GraphError, match="refuses the graph"):
        open_session(b"not a graph", "cpu")


def test_tables_grow_without_touching_those_in_use(scorer: Scorer, tables: Tables) -> None:
    """A run that holds the smaller tables and one that holds the larger ones give the same scores."""
    inputs = draw(1, 30)
    before = scorer.score(tables, *inputs)
    grown = tables.grown(1000)
    assert np.array_equal(scorer.score(grown, *inputs), before)
    assert np.array_equal(scorer.score(tables, *inputs), before)
