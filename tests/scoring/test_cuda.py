"""Scoring on an NVIDIA GPU: `pytest -m gpu`."""

import threading

import numpy as np
import pytest
from onnx import parser

from contract.bundle import Bundle, read_bundle
from contract.codec import item_records
from kernels.cuda_library import find_cuda_library
from scoring.buckets import Buckets
from scoring.budget import MemoryBudget
from scoring.cuda import CUDA
from scoring.cuda_driver import gpu_answers
from scoring.device import BODY, open_session
from scoring.errors import DeviceMemoryError, GraphError
from scoring.gpu import Gpu, open_gpu
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from tests.fakes import make_bundle, make_items

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_answers(), reason="no NVIDIA driver answers with a GPU"),
]

NUM_ITEMS, HISTORY = 200, 8
BUCKETS = Buckets(candidates=(1, 16, 128), users=(1, 4), most_rows=512)
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3, "int8": 2e-2}
SHAPES = [(1, 1), (1, 100), (1, 300), (3, 20), (9, 2)]
DETERMINANT = """
    <ir_version: 10, opset_import: ["": 20]>
    lacking (float[4,4] x) => (float y) { z = Mul (x, x) y = Det (z) }
"""


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A published bundle of random weights, in each precision."""
    return read_bundle(make_bundle(tmp_path_factory.mktemp("store"), precision=request.param))


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same in float32 alone."""
    return read_bundle(make_bundle(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module", params=[True, False], ids=["graphs", "no graphs"])
def gpu(request: pytest.FixtureRequest) -> Gpu:
    """The GPU, with captured runs and without."""
    return open_gpu(buckets=BUCKETS, graphs=request.param)


def catalogue(scorer: Scorer) -> ItemRows:
    """The items of `make_items`."""
    items, rows = make_items(), ItemRows(scorer, NUM_ITEMS)
    rows.update(items.item_id, item_records(items.tags, np.zeros((NUM_ITEMS, 2)), items.embedding))
    return rows


def draw(users: int, candidates: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, NUM_ITEMS + 1, (users, candidates)),
        generator.integers(0, NUM_ITEMS + 1, (users, HISTORY)),
        generator.integers(0, 11, (users, candidates, 2)),
    )


def test_golden_rows_and_scores_are_those_of_the_cpu_in_each_precision(bundle: Bundle, gpu: Gpu) -> None:
    """In every shape, from whatever thread; and it is CUDA that runs."""
    precision = bundle.manifest.precision
    try:
        scorer = Scorer(bundle, num_threads=1, gpu=gpu)
    except GraphError as error:
        if precision == "float32" or find_cuda_library() is not None:
            raise
        pytest.skip(f"without kernels ONNX Runtime has no CUDA operations for {precision}: {error}")
    assert scorer.provider == CUDA
    scorer.verify()
    reference = Scorer(bundle, "cpu", 1)
    with catalogue(scorer).view() as view, catalogue(reference).view() as cpu_view:
        scorer.warm_up(view.tables)
        for seed, shape in enumerate(SHAPES * 2):
            request, found = draw(*shape, seed), []
            thread = threading.Thread(target=lambda: found.append(scorer.score(view.tables, *request)))  # noqa: B023
            thread.start()
            thread.join()
            wanted = reference.score(cpu_view.tables, *request)
            for scores in (found[0], scorer.score(view.tables, *request)):
                np.testing.assert_allclose(scores, wanted, rtol=0, atol=TOLERANCE[precision])
            explained = scorer.explain(view.tables, *request), reference.explain(cpu_view.tables, *request)
            np.testing.assert_allclose(*explained, rtol=1e-4, atol=1e-4)


def test_rows_that_are_written_while_others_score_are_old_or_new(float32: Bundle, gpu: Gpu) -> None:
    """Growth included, whose captures disturb nobody."""
    scorer = Scorer(float32, num_threads=1, gpu=gpu)
    rows = catalogue(scorer)
    with rows.view() as view:
        scorer.warm_up(view.tables)
    ids, history, levels = np.array([[5]]), np.zeros((1, HISTORY), np.int64), np.zeros((1, 1, 2), np.int64)

    def score() -> float:
        with rows.view() as view:
            return float(scorer.score(view.tables, view.rows(ids), history, levels)[0, 0])

    def put(item_id: int, value: float) -> None:
        embedding = np.full((1, 8), value, np.float32)
        rows.update(np.array([item_id]), item_records(np.zeros((1, 5)), np.zeros((1, 2)), embedding))

    put(5, 1.0)
    legal = [score()]
    put(5, -2.0)
    legal.append(score())
    seen, done = list[float](), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(score())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(300):
        put(5, 1.0 if step % 2 else -2.0)
        put(1000 + step, 0.5)
    done.set()
    for reader in readers:
        reader.join()
    assert len(rows) == NUM_ITEMS + 300
    assert abs(legal[0] - legal[1]) > 1e-3
    assert np.abs(np.array(seen)[:, None] - legal).min(axis=1).max() < 1e-5


def test_a_hundred_versions_leave_the_devices_memory_as_it_was(float32: Bundle, gpu: Gpu) -> None:
    """From the tenth on, each loaded beside the one before."""
    held, serving = [], None
    for number in range(100):
        scorer = Scorer(float32, num_threads=1, gpu=gpu)
        rows = catalogue(scorer)
        with rows.view() as view:
            scorer.warm_up(view.tables)
            scorer.score(view.tables, *draw(1, 10))
        serving = scorer, rows
        del scorer, rows, view
        if number >= 10:
            held.append(gpu.accelerator.free_bytes())
    assert serving is not None
    assert max(held) - min(held) <= 2**25


@pytest.mark.parametrize("for_capture", [True, False])
def test_a_node_that_cuda_has_no_kernel_for_is_refused(gpu: Gpu, for_capture: bool) -> None:
    """The CPU does not take it over."""
    provider = gpu.accelerator.stream().provider(2**28, for_capture)
    with pytest.raises(GraphError):
        open_session(parser.parse_model(DETERMINANT).SerializeToString(), provider, 1)


def test_the_kernels_run_where_they_were_built(bundle: Bundle, gpu: Gpu) -> None:
    """Each operation by code for this GPU."""
    if find_cuda_library() is None:
        pytest.skip("no CUDA kernel library was built; make kernels-cuda does it")
    assert BODY not in Scorer(bundle, num_threads=1, gpu=gpu, require_kernels=True).kernels.values()


def test_a_device_that_others_have_filled_refuses_a_version(float32: Bundle, gpu: Gpu) -> None:
    """By its own count of free memory, whatever the budget says."""
    full = Gpu(gpu.accelerator, MemoryBudget(2**50, lambda: 2**20), BUCKETS)
    with pytest.raises(DeviceMemoryError, match="is free on the device"):
        Scorer(float32, num_threads=1, gpu=full)


def test_auto_takes_the_gpu(float32: Bundle) -> None:
    """Nobody has to ask for it."""
    assert Scorer(float32, "auto", 1).provider == CUDA
