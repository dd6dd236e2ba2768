"""The ranker in every form on a device: what is timed by `tests.bench.gpu`, and how."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

import scoring.device
from contract.bundle import Bundle, read_bundle
from contract.manifest import Precision
from export.exporter import TrainedModel, export_model
from scoring.buckets import Buckets, Shape
from scoring.budget import MemoryBudget
from scoring.cuda import CudaAccelerator, CudaGraph, CudaStream
from scoring.device_runner import DeviceRunner
from scoring.device_tables import DeviceTables
from scoring.errors import ScoringError
from scoring.gpu import Gpu
from scoring.scorer import Scorer
from tests.fakes import make_items, make_trained, write_clicks
from tests.scoring.memory_device import MemoryDevice

EMBEDDING_DIM, ITEM_WIDTH, INPUT_WIDTH, NUM_LAYERS, HISTORY = 128, 384, 1024, 4, 64
NUM_TAGS, EMBEDDING_WIDTH = 11_740, 128
PUBLISHED, STANDARD = "as published", "standard operations"
FUSED: dict[str, Precision] = {f"fused {name}": name for name in ("float32", "bfloat16", "int8")}  # type: ignore[misc]
_LAUNCHES = 20


@dataclass(frozen=True, slots=True)
class Times:
    """Microseconds: of a run on the device, copies included, and of a request from the caller's side, each."""

    device_us: float
    host_us: NDArray[np.float64]


@dataclass(slots=True)
class Form:
    """One form of the ranker, open on a device, or why it is not."""

    name: str
    graphs: bool
    scorer: Scorer | None = None
    tables: DeviceTables | None = None
    refused: str = ""

    @property
    def label(self) -> str:
        """The form and whether its runs are captured."""
        return f"{self.name}, {'graph' if self.graphs else 'no graph'}"


@contextmanager
def bundles(num_items: int) -> Iterator[dict[str, Bundle]]:
    """Export one network of random weights in every form, for as long as the block runs."""
    trained = make_trained(
        num_items=num_items,
        num_tags=NUM_TAGS,
        embedding_width=EMBEDDING_WIDTH,
        history_length=HISTORY,
        embedding_dim=EMBEDDING_DIM,
        num_layers=NUM_LAYERS,
        num_rows=4,
    )
    with torch.no_grad():
        for layer in trained.network.layers:
            layer.linear.weight.mul_(0.2)  # random layers of this width multiply rounding errors too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {PUBLISHED: _export(trained, folder, fold=False), STANDARD: _export(trained, folder)}
        made |= {form: _export(trained, folder, precision) for form, precision in FUSED.items()}
        yield made


def _export(trained: TrainedModel, folder: Path, precision: Precision = "float32", fold: bool = True) -> Bundle:
    items = make_items(1000, NUM_TAGS, EMBEDDING_WIDTH)
    clicks = None
    if precision != "float32":
        clicks = write_clicks(folder / "clicks.parquet", num_items=1000, history_length=HISTORY)
    return read_bundle(
        export_model(
            trained, items, folder, fold_weights=fold, precision=precision, validation=clicks, max_auc_loss=1
        )
    )


def open_form(
    name: str, bundle: Bundle, device: CudaAccelerator | MemoryDevice, buckets: Buckets, graphs: bool
) -> Form:
    """Open a form, fill its tables and make it ready; verified by its golden rows."""
    form = Form(name, graphs)
    gpu = Gpu(device, MemoryBudget(device.free_bytes(), device.free_bytes), buckets, graphs)
    without = name in (PUBLISHED, STANDARD)
    opened = {PUBLISHED: _as_published, STANDARD: _no_kernels}.get(name, nullcontext)
    try:
        with opened():
            form.scorer = Scorer(bundle, num_threads=1, gpu=gpu, require_kernels=not without)
        form.scorer.verify()
        tables = form.scorer.new_tables(len(bundle.vocabulary) + 1)
        assert isinstance(tables, DeviceTables)
        _fill(form.scorer, tables)
        form.scorer.warm_up(tables)
        form.tables = tables
    except ScoringError as error:
        form.refused = str(error)
    return form


@contextmanager
def _no_kernels() -> Iterator[None]:
    with (
        patch("scoring.device.find_library", return_value=None),
        patch("scoring.device.find_cuda_library", return_value=None),
    ):
        yield


@contextmanager
def _as_published() -> Iterator[None]:
    """Let the CPU compute shapes, where ONNX Runtime puts them on purpose: nothing else of these graphs is there."""

    def options(num_threads: int, provider: str) -> ort.SessionOptions:
        made = session_options(num_threads, provider)
        made.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
        return made

    session_options = scoring.device._options
    with _no_kernels(), patch("scoring.device._options", options):
        yield


def _fill(scorer: Scorer, tables: DeviceTables, at_once: int = 4096) -> None:
    num_items = tables.capacity - 1
    for start in range(0, num_items, at_once):
        items = make_items(min(at_once, num_items - start), NUM_TAGS, EMBEDDING_WIDTH, seed=start)
        encoded, _ = scorer.encode(items.item_id + start, items.tags, items.embedding)
        tables.write(np.arange(len(items.item_id)) + start + 1, encoded)


def measure(forms: Sequence[Form], shape: Shape, runs: int, seed: int = 1) -> dict[str, Times]:
    """Time a request of a shape by every form that is open, alternating."""
    generator = np.random.default_rng(seed)
    open_ = [form for form in forms if form.tables is not None]
    host: dict[str, list[float]] = {form.label: [] for form in open_}
    for number in range(-5, runs):
        rows = _draw(generator, shape, open_[0].tables.capacity) if open_ and open_[0].tables else ()
        for form in open_:
            assert form.scorer is not None
            assert form.tables is not None
            started = time.perf_counter()
            form.scorer.score(form.tables, *rows)
            if number >= 0:
                host[form.label].append((time.perf_counter() - started) * 1e6)
    return {form.label: Times(_device_us(form, shape), np.array(host[form.label])) for form in open_}


def _draw(generator: np.random.Generator, shape: Shape, num_rows: int) -> tuple[NDArray[np.int64], ...]:
    users, candidates = shape
    return (
        generator.integers(1, num_rows, (users, candidates)),
        generator.integers(1, num_rows, (users, HISTORY)),
        generator.integers(0, 11, (users, candidates, 2)),
    )


def _device_us(form: Form, shape: Shape) -> float:
    """Return the time of one run on the device; by the host's clock where the device is the host's memory."""
    assert form.scorer is not None
    assert form.tables is not None
    runner = form.scorer._ranker
    assert isinstance(runner, DeviceRunner)
    run, stream = form.tables.runs[shape], runner._stream
    if isinstance(run, CudaGraph):
        return median_of(lambda: run.span_us(_LAUNCHES))
    if isinstance(stream, CudaStream):
        return median_of(lambda: stream.span_us(run))
    return median_of(lambda: host_us(run))


def median_of(measure: Callable[[], float], times: int = 20) -> float:
    """Return the median of some measurements, after two that warm up."""
    return float(np.median([measure() for _ in range(times + 2)][2:]))


def host_us(work: Callable[[], object]) -> float:
    """Return what some work takes by the host's clock."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6
