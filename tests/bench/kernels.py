"""Time one ranking at the paper's size by every form of the ranker, alternating in one run.

    python -m tests.bench.kernels [--candidates 1 10 100 1000] [--runs 25] [--threads 0]

The first table is the whole ranking: as published, folded with standard operations, and fused in each precision, with
the median of the wall clock, the median of the process's CPU time, and ratios pair by pair. The second is the tower
alone beside ONNX Runtime's own float32 MatMul at the tower's shapes, and beside what the cores' arithmetic gives from
registers alone (`peak`), in the same run on the same threads.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from contract.bundle import read_bundle
from contract.manifest import Precision
from export.exporter import TrainedModel, export_model
from kernels.library import KernelLibrary, find_library
from scoring.scorer import Scorer
from scoring.tables import Tables
from tests.bench.peak import Peak, measuring_peak
from tests.fakes import make_items, make_trained, write_clicks
from tests.kernels.operations import Operation, Size, tower_operands

NUM_ITEMS = 5_000
HISTORY = 64
PAPER = Size(history_length=HISTORY, embedding_dim=128, item_width=384, num_layers=4)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
PUBLISHED, STANDARD, FLOAT32 = "as published", "standard operations", "fused float32"
UNSPLIT = "fused float32, layer 1 not split"
MATMUL, PEAK, PEAK_ROWS = "MatMul", "peak", 1000  # of few rows' work, waking the threads would be most of the time

console = Console(width=120)


@dataclass(slots=True)
class Times:
    """Seconds of each run of one thing."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, run: Callable[[], object]) -> None:
        """Run something once and note what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)


def main() -> None:
    """Build every form of one network and time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    arguments = parser.parse_args()
    library = find_library()
    if library is None:
        raise SystemExit("no kernel library was built: python -m kernels.build")
    console.print(f"kernels for {KernelLibrary(library).instruction_set}, ONNX Runtime {ort.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        rankers = _rankers(Path(folder), arguments.threads)
        rankings = [
            (num_candidates, _rankings(rankers, num_candidates, arguments.runs))
            for num_candidates in arguments.candidates
        ]
    console.print(_ranking_table(rankings))
    with tempfile.TemporaryDirectory() as folder, measuring_peak(Path(folder), arguments.threads) as peak:
        towers = [
            (num_candidates, _towers(library, num_candidates, arguments.runs, arguments.threads, peak))
            for num_candidates in arguments.candidates
        ]
    console.print(_tower_table(towers))


def _rankers(folder: Path, num_threads: int) -> dict[str, tuple[Scorer, Tables]]:
    trained = make_trained(
        num_items=NUM_ITEMS,
        num_tags=11_740,
        embedding_width=128,
        history_length=HISTORY,
        embedding_dim=PAPER.embedding_dim,
        num_layers=PAPER.num_layers,
        num_rows=4,
    )
    with torch.no_grad():
        for layer in trained.network.layers:
            layer.linear.weight.mul_(0.2)  # random layers of this width multiply rounding errors too
    with _no_kernels():
        rankers = {
            PUBLISHED: _ranker(folder, trained, num_threads, fold=False),
            STANDARD: _ranker(folder, trained, num_threads),
        }
    rankers[UNSPLIT] = _ranker(folder, trained, num_threads, split=False)
    for precision in PRECISIONS:
        rankers[f"fused {precision}"] = _ranker(folder, trained, num_threads, precision)
    return rankers


@contextmanager
def _no_kernels() -> Iterator[None]:
    with patch("scoring.device.find_library", return_value=None):
        yield


def _ranker(
    folder: Path,
    trained: TrainedModel,
    num_threads: int,
    precision: Precision = "float32",
    *,
    fold: bool = True,
    split: bool = True,
) -> tuple[Scorer, Tables]:
    items = make_items(NUM_ITEMS, 11_740, 128)
    bundle = export_model(
        trained,
        items,
        folder,
        fold_weights=fold,
        split_first_layer=split,
        precision=precision,
        validation=write_clicks(folder / "clicks.parquet", num_items=NUM_ITEMS) if precision != "float32" else None,
        max_auc_loss=1,  # random weights have none to lose
    )
    scorer = Scorer(read_bundle(bundle), num_threads=num_threads)
    tables = scorer.new_tables(NUM_ITEMS + 1)
    encoded, _ = scorer.encode(items.item_id, items.tags, items.embedding)
    tables.write(np.arange(1, NUM_ITEMS + 1), encoded)
    return scorer, tables


def _rankings(rankers: Mapping[str, tuple[Scorer, Tables]], num_candidates: int, runs: int) -> dict[str, Times]:
    generator = np.random.default_rng(1)

    def request() -> dict[str, Callable[[], object]]:
        candidates = generator.integers(1, NUM_ITEMS, (1, num_candidates))
        history = generator.integers(1, NUM_ITEMS, (1, HISTORY))
        levels = generator.integers(0, 11, (1, num_candidates, 2))
        return {
            name: partial(scorer.score, tables, candidates, history, levels)
            for name, (scorer, tables) in rankers.items()
        }

    return _alternate(request, runs)


def _towers(
    library: Path, num_candidates: int, runs: int, num_threads: int, peak: Peak | None
) -> dict[str, dict[str, Times]]:
    """Time each precision's tower in turn with MatMul alone: all weights at once would not fit in the cache."""
    size = Size(1, num_candidates, HISTORY, PAPER.embedding_dim, PAPER.item_width, PAPER.num_layers)
    operands = tower_operands(size, seed=1)
    matmul = _matmuls(operands["weight"], num_candidates, num_threads)
    towers = {}
    for precision in PRECISIONS:
        operation = Operation(operands, size, precision)
        tower = _bound(operation.session(library, num_threads), operation.feed(operands))
        things = {MATMUL: matmul, f"tower {precision}": tower}
        towers[precision] = _alternate(lambda things=things: things, runs)
    if peak is not None:
        run = partial(peak.run, _multiply_adds(max(num_candidates, PEAK_ROWS)))
        towers[PEAK] = _alternate(lambda: {MATMUL: matmul, PEAK: run}, runs)
    return towers


def _multiply_adds(num_rows: int) -> int:
    return num_rows * (PAPER.num_layers - 1) * PAPER.input_width**2


def _matmuls(weight: NDArray[np.generic], num_rows: int, num_threads: int) -> Callable[[], object]:
    """Return what runs one MatMul for each of the tower's matrices, each in a session of its own node."""
    nodes = [
        onnx.helper.make_node("MatMul", ["x", f"weight_{layer}"], [f"y_{layer}"]) for layer in range(len(weight))
    ]
    width = weight.shape[1]
    outputs = [
        onnx.helper.make_tensor_value_info(f"y_{layer}", onnx.TensorProto.FLOAT, [num_rows, width])
        for layer in range(len(weight))
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "matmuls",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [num_rows, width])],
        outputs,
        [onnx.numpy_helper.from_array(matrix, f"weight_{layer}") for layer, matrix in enumerate(weight)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).standard_normal((num_rows, width), dtype=np.float32)
    return _bound(session, {"x": x})


def _bound(session: ort.InferenceSession, feed: Mapping[str, NDArray[np.generic]]) -> Callable[[], object]:
    binding = session.io_binding()
    for name, values in feed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values)))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    return lambda: session.run_with_iobinding(binding)


def _alternate(request: Callable[[], Mapping[str, Callable[[], object]]], runs: int) -> dict[str, Times]:
    """Time the things of `runs` requests, each request's one after the other, after two that warm up."""
    times: dict[str, Times] = {}
    for number in range(-2, runs):
        for name, run in request().items():
            (times.setdefault(name, Times()) if number >= 0 else Times()).measure(run)
    return times


def _ranking_table(rankings: list[tuple[int, dict[str, Times]]]) -> Table:
    table = Table(
        "candidates", "form", "ms", "CPU ms", "published /", "standard /", "fused float32 /", title="ranking"
    )
    for num_candidates, times in rankings:
        for name, noted in times.items():
            ratios = [_ratio(times[base], noted) for base in (PUBLISHED, STANDARD, FLOAT32)]
            table.add_row(f"{num_candidates}", name, _ms(noted.wall), _ms(noted.cpu), *ratios)
        table.add_section()
    return table


def _tower_table(towers: list[tuple[int, dict[str, dict[str, Times]]]]) -> Table:
    table = Table("candidates", "", "ms", "CPU ms", "GFLOP/s", "MatMul /", "MatMul / (CPU)", "of peak")
    table.title = "tower alone"
    for num_candidates, pairs in towers:
        work = 2e-9 * _multiply_adds(num_candidates)
        peak = None
        if PEAK in pairs:
            peak = 2e-9 * _multiply_adds(max(num_candidates, PEAK_ROWS)) / _median(pairs[PEAK][PEAK])
        rows = {MATMUL: pairs["float32"], **{f"tower {precision}": pairs[precision] for precision in PRECISIONS}}
        for name, pair in rows.items():
            rate = work / _median(pair[name])
            ratios = [_ratio(pair[MATMUL], pair[name], cpu=cpu) for cpu in (False, True)]
            share = "" if peak is None else f"{rate / peak:.0%}"
            times = _ms(pair[name].wall), _ms(pair[name].cpu)
            table.add_row(f"{num_candidates}", name, *times, f"{rate:.0f}", *ratios, share)
        if peak is not None:
            table.add_row(f"{num_candidates}", PEAK, "", "", f"{peak:.0f}", "", "", "100%")
        table.add_section()
    return table


def _median(times: Times) -> float:
    return float(np.median(times.wall))


def _ms(seconds: list[float]) -> str:
    return f"{np.median(seconds) * 1e3:.3f}"


def _ratio(base: Times, of: Times, *, cpu: bool = False) -> str:
    """Return the median of the pairs' ratios, with the middle half of them."""
    first, second = (base.cpu, of.cpu) if cpu else (base.wall, of.wall)
    low, middle, high = np.quantile(np.array(first) / np.array(second), [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
