"""Scoring on a device: buckets, slots, copies and captured runs, with a device that lies in the host's memory."""

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from contract.bundle import Bundle, read_bundle
from contract.codec import item_records
from export.exporter import export_model
from scoring.buckets import Buckets
from scoring.budget import MIB
from scoring.device_tables import DeviceTables
from scoring.errors import DeviceError, DeviceMemoryError, GraphError
from scoring.rows import ItemRows
from scoring.scorer import Scorer
from scoring.tables import Tables
from scoring.uploads import Uploads
from tests.fakes import make_bundle, make_items, make_trained
from tests.scoring.memory_device import SMALL, HostQueue, MemoryDevice, memory_gpu

NUM_ITEMS, HISTORY = 200, 8
SHAPES = [(1, 1), (1, 3), (1, 16), (1, 17), (1, 100), (2, 16), (3, 5), (4, 16), (9, 2), (7, 40)]


@pytest.fixture(scope="module", params=[True, False], ids=["split", "unsplit"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A published bundle of random weights."""
    return read_bundle(make_bundle(tmp_path_factory.mktemp("store"), split_first_layer=request.param))


@pytest.fixture
def device() -> MemoryDevice:
    """A device of a gigabyte."""
    return MemoryDevice()


def filled(scorer: Scorer) -> Tables:
    """Item i of the catalogue in table row i + 1."""
    items = make_items()
    tables = scorer.new_tables(NUM_ITEMS + 1)
    encoded, _ = scorer.encode(items.item_id, items.tags, items.embedding)
    tables.write(np.arange(1, NUM_ITEMS + 1), encoded)
    return tables


def draw(users: int, candidates: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return (
        generator.integers(0, NUM_ITEMS + 1, (users, candidates)),
        generator.integers(0, NUM_ITEMS + 1, (users, HISTORY)),
        generator.integers(0, 11, (users, candidates, 2)),
    )


def put(rows: ItemRows, values: dict[int, float]) -> None:
    """Store items whose embedding is one number repeated."""
    embedding = np.repeat(np.array(list(values.values()), np.float32)[:, None], 8, axis=1)
    nothing = np.zeros((len(values), 5)), np.zeros((len(values), 2))
    rows.update(np.array(list(values)), item_records(*nothing, embedding))


@pytest.mark.parametrize("graphs", [True, False])
def test_scores_are_those_of_the_cpu_in_every_shape(bundle: Bundle, device: MemoryDevice, graphs: bool):
    """Padded to a bucket or cut into several, captured or not, and in whatever order they come."""
    on_cpu = Scorer(bundle, "cpu", 1)
    on_device = Scorer(bundle, num_threads=1, gpu=memory_gpu(device, graphs=graphs))
    tables, cpu_tables = filled(on_device), filled(on_cpu)
    on_device.warm_up(tables)
    for seed, shape in enumerate([*SHAPES, *reversed(SHAPES)]):
        rows = draw(*shape, seed)
        np.testing.assert_allclose(on_device.score(tables, *rows), on_cpu.score(cpu_tables, *rows), atol=1e-6)
        np.testing.assert_allclose(on_device.explain(tables, *rows), on_cpu.explain(cpu_tables, *rows), atol=1e-5)
    assert (device.num_replays > 0) == graphs


def test_golden_rows_hold_before_anything_is_captured(bundle: Bundle, device: MemoryDevice):
    """A bundle is verified before its catalogue is there, by the runs that are captured later."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    scorer.verify()
    assert device.num_captures == 0


def test_every_bucket_is_captured_once_at_warm_up_and_replayed_from_then_on(bundle: Bundle, device: MemoryDevice):
    """No request waits for a capture."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    tables = filled(scorer)
    scorer.warm_up(tables)
    assert device.num_captures == len(SMALL.shapes)
    replays = device.num_replays
    for shape in SMALL.shapes:
        scorer.score(tables, *draw(*shape))
    assert device.num_captures == len(SMALL.shapes)
    assert device.num_replays == replays + len(SMALL.shapes)


def test_a_request_is_not_given_what_an_earlier_one_left(bundle: Bundle, device: MemoryDevice):
    """All requests of a bucket share its memory: what padding holds must not count."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    tables = filled(scorer)
    scorer.warm_up(tables)
    small = draw(1, 5, seed=1)
    first = scorer.score(tables, *small)
    scorer.score(tables, *draw(1, 16, seed=2))
    second = scorer.score(tables, *small)
    assert np.array_equal(first, second)
    assert first.std() > 0.01


def test_a_capture_that_computes_something_else_is_refused(bundle: Bundle, device: MemoryDevice):
    """What is replayed is held against what was run before it answers anybody."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    tables = filled(scorer)
    device.forgets = True
    with pytest.raises(GraphError, match="gives other scores than a run"):
        scorer.warm_up(tables)


def test_a_device_that_fails_is_never_tried_again(bundle: Bundle, device: MemoryDevice):
    """Every later request fails at once, and the scorer says why: nothing is scored elsewhere instead."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    tables = filled(scorer)
    scorer.warm_up(tables)
    assert scorer.failure is None
    device.broken = True
    with pytest.raises(DeviceError, match="the GPU failed: an illegal memory access"):
        scorer.score(tables, *draw(1, 3))
    device.broken, replays = False, device.num_replays
    with pytest.raises(DeviceError, match="an illegal memory access"):
        scorer.score(tables, *draw(1, 3))
    assert device.num_replays == replays
    assert scorer.failure is not None


@pytest.mark.parametrize("error", [RuntimeError("CUBLAS failure 3"), DeviceError("other (901)", lasting=False)])
def test_a_run_that_fails_before_tables_are_ready_is_the_versions_fault(
    bundle: Bundle, device: MemoryDevice, error: Exception
):
    """Nobody is answered with them yet, and the device goes on: the same may succeed later."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    golden, tables = scorer.golden_tables(), filled(scorer)
    device.errors = [error]
    with pytest.raises(GraphError, match="candidates fail: "):
        scorer.verify(golden)
    device.errors = [error]
    with pytest.raises(GraphError, match="candidates fail: "):
        scorer.warm_up(tables)
    assert scorer.failure is None
    scorer.verify(golden)
    scorer.warm_up(tables)


def test_a_run_that_fails_with_the_device_is_the_devices_fault(bundle: Bundle, device: MemoryDevice):
    """Nothing can be waited for any more, whatever ONNX Runtime said."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    golden = scorer.golden_tables()
    device.errors, device.broken = [RuntimeError("CUDA failure 700")], True
    with pytest.raises(DeviceError, match="the GPU failed: CUDA failure 700"):
        scorer.verify(golden)
    assert scorer.failure == "the GPU failed: CUDA failure 700"


def test_writing_rows_copies_those_rows_alone(bundle: Bundle, device: MemoryDevice):
    """One copy for each stretch of adjacent rows and table, whatever order they are given in; others stay."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    tables, items = filled(scorer), make_items(seed=9)
    before = tables.arrays
    encoded, _ = scorer.encode(items.item_id[:6], items.tags[:6], items.embedding[:6])
    device.num_copies, rows = 0, np.array([7, 3, 4, 90, 5, 8])
    tables.write(rows, encoded)
    assert device.num_copies == 3 * len(tables.specs)
    for spec, old, new in zip(tables.specs, before, tables.arrays, strict=True):
        assert np.array_equal(new[rows], encoded[spec.name])
        others = np.delete(np.arange(tables.capacity), rows)
        assert np.array_equal(new[others], old[others])


def test_more_rows_than_fit_into_page_locked_memory_are_written_all_the_same(bundle: Bundle, device: MemoryDevice):
    """A part at a time, each before the next takes its place."""
    specs, generator = bundle.manifest.tables, np.random.default_rng(3)
    uploads = Uploads(device, num_bytes=3 * 4 * max(spec.width for spec in specs))
    tables = DeviceTables(specs, NUM_ITEMS + 1, device, uploads, memory_gpu(device).budget)
    rows = generator.permutation(NUM_ITEMS) + 1
    values = {spec.name: generator.normal(size=(NUM_ITEMS, spec.width)).astype(np.float32) for spec in specs}
    tables.write(rows, values)
    for spec, array in zip(specs, tables.arrays, strict=True):
        assert np.array_equal(array[rows], values[spec.name])
        assert not array[0].any()


def test_tables_grow_ready_to_score_with(bundle: Bundle, device: MemoryDevice):
    """Their addresses change, so their runs are captured before anybody is led to them; the old ones still score."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    rows = ItemRows(scorer, capacity=2)
    put(rows, {1: 1.0, 2: 2.0})
    with rows.view() as old:
        scorer.warm_up(old.tables)
        request = old.rows(np.array([[1, 2]])), old.history_rows([np.array([2])]), np.zeros((1, 2, 2), np.int64)
        before = scorer.score(old.tables, *request)
        put(rows, {item: item / 7 for item in range(3, 60)})
        captured, replayed = device.num_captures, device.num_replays
        assert captured >= 2 * len(SMALL.shapes)
        with rows.view() as new:
            assert new.tables.capacity > old.tables.capacity
            same = new.rows(np.array([[1, 2]])), new.history_rows([np.array([2])]), request[2]
            assert np.array_equal(scorer.score(new.tables, *same), before)
        assert np.array_equal(scorer.score(old.tables, *request), before)
        assert (device.num_captures, device.num_replays) == (captured, replayed + 2)


def test_a_request_waits_for_one_bucket_of_growing_tables_and_not_for_all(
    bundle: Bundle, device: MemoryDevice, monkeypatch: pytest.MonkeyPatch
):
    """What asks while one is made ready has its turn before the next."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    tables = filled(scorer)
    scorer.warm_up(tables)
    asking = threading.Thread(target=scorer.score, args=(tables, *draw(1, 3)))
    capture, replays = HostQueue.capture, []

    def asked_meanwhile(queue: HostQueue, work):
        if not replays:
            asking.start()
            while not scorer._ranker._turn._waiting:
                time.sleep(0.001)
        replays.append(device.num_replays)
        return capture(queue, work)

    monkeypatch.setattr(HostQueue, "capture", asked_meanwhile)
    scorer.warm_up(tables.grown(2 * NUM_ITEMS))
    asking.join()
    assert replays[1] == replays[0] + 2  # that which checks the first bucket, and the request


def test_tables_that_nobody_made_ready_grow_without_captures(bundle: Bundle, device: MemoryDevice):
    """A catalogue that is being filled grows several times before it serves."""
    rows = ItemRows(Scorer(bundle, num_threads=1, gpu=memory_gpu(device)), capacity=2)
    put(rows, {item: item / 7 for item in range(1, 60)})
    assert device.num_captures == 0


def test_scores_under_updates_are_old_or_new(bundle: Bundle, device: MemoryDevice):
    """Readers in other threads see each item before or after a change, never between, growth included."""
    scorer = Scorer(bundle, num_threads=1, gpu=memory_gpu(device))
    rows = ItemRows(scorer, capacity=4)
    put(rows, {1: 1.0})
    with rows.view() as view:
        scorer.warm_up(view.tables)
    history, levels = np.zeros((1, HISTORY), np.int64), np.zeros((1, 1, 2), np.int64)

    def score() -> float:
        with rows.view() as view:
            return round(float(scorer.score(view.tables, view.rows(np.array([[1]])), history, levels)[0, 0]), 5)

    legal = {score()}
    put(rows, {1: -2.0})
    legal.add(score())
    assert len(legal) == 2
    seen, done = set[float](), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(score())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    step = 0
    while step < 100 or (seen != legal and step < 100_000):
        put(rows, {1: 1.0 if step % 2 else -2.0})
        if step % 20 == 0:
            put(rows, {100 + step + extra: 0.5 for extra in range(10)})
        step += 1
    done.set()
    for reader in readers:
        reader.join()
    assert seen == legal


def test_a_hundred_versions_one_after_the_other_leave_memory_as_it_was(bundle: Bundle, device: MemoryDevice):
    """Each is loaded beside the one before, made ready, and let go; nothing waits for the collector of circles."""
    gpu = memory_gpu(device)
    gc.disable()
    try:
        serving, held = None, []
        for _ in range(100):
            scorer = Scorer(bundle, num_threads=1, gpu=gpu)
            scorer.verify()
            rows = ItemRows(scorer, capacity=50)
            put(rows, {item: item / 7 for item in range(40)})
            with rows.view() as view:
                scorer.warm_up(view.tables)
            serving = scorer, rows
            held.append((device.allocated, gpu.budget.reserved_bytes))
            del scorer, rows, view
        assert held[1:] == held[1:2] * 99
        del serving
        assert (device.allocated, gpu.budget.reserved_bytes) == (0, 0)
    finally:
        gc.enable()


def test_a_version_that_does_not_fit_is_refused_and_the_one_that_serves_goes_on(bundle: Bundle, device: MemoryDevice):
    """Before the device runs out, with what it needs and what is left."""
    buckets = Buckets(candidates=(1, 16), users=(1,), most_rows=16)
    gpu = memory_gpu(device, num_bytes=200 * MIB, buckets=buckets)
    serving = Scorer(bundle, num_threads=1, gpu=gpu)
    tables = filled(serving)
    before = serving.score(tables, *draw(1, 10))
    with pytest.raises(DeviceMemoryError, match=r"weights and largest run need 1\d\d MiB.* left of device_memory_mb"):
        Scorer(bundle, num_threads=1, gpu=gpu)
    with pytest.raises(DeviceMemoryError, match=r"tables of 10,000,000 rows need .* MiB"):
        serving.new_tables(10_000_000)
    assert np.array_equal(serving.score(tables, *draw(1, 10)), before)
    assert len(device.memory_limits) == 1
    assert device.memory_limits[0] <= 200 * MIB


def test_tables_that_cannot_grow_serve_on_as_they_are(bundle: Bundle, device: MemoryDevice):
    """An item that finds no room is an error to whoever writes it, and changes nothing."""
    gpu = memory_gpu(device)
    scorer = Scorer(bundle, num_threads=1, gpu=gpu)
    rows = ItemRows(scorer, capacity=2)
    put(rows, {1: 1.0, 2: 2.0})
    rest = gpu.budget.reserve(gpu.budget.left_bytes, "everything else")
    with pytest.raises(DeviceMemoryError, match="tables of"):
        put(rows, {item: item / 7 for item in range(3, 60)})
    assert len(rows) == 2
    del rest
    put(rows, {item: item / 7 for item in range(3, 60)})
    assert len(rows) == 59


def test_the_published_order_of_computation_runs_too(tmp_path: Path, device: MemoryDevice):
    """A ranker without fused operations has other tables."""
    published = read_bundle(export_model(make_trained(), make_items(), tmp_path, fold_weights=False))
    scorer = Scorer(published, num_threads=1, gpu=memory_gpu(device))
    scorer.verify()
    scorer.warm_up(filled(scorer))
