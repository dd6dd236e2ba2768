"""Time the ranker in every form on an NVIDIA GPU, at the paper's size, and the service around it.

    python -m tests.bench.gpu [--candidates 1 10 100 1000 4096] [--users 1 2 4 8 16] [--runs 200] [--swaps 100]

As published without graphs, folded with standard operations and fused in each precision with and without: the time on
the device (copies included), and the median and p99 from the caller's side; shares of what the device copies and
multiplies at best, measured in the same run; what a run of several users saves beside as many runs. Then the service
with one request in flight, and its memory on the device over swaps. Status 1 where a bar does not hold: fused is 1.5
times as fast as standard operations, both in graphs, at 1,000 candidates, and takes at most 100 us there; the
service's p99 is at most 3 ms; memory is flat. `--rehearse` goes through all of it without a GPU, on the host's
memory: its figures mean nothing.
"""

import argparse
import gc
import sys

import numpy as np
import onnxruntime as ort
from rich.table import Table

from scoring.buckets import Buckets, Shape
from scoring.cuda import CudaAccelerator
from scoring.errors import DeviceError
from tests.bench.gpu_forms import (
    FUSED,
    HISTORY,
    INPUT_WIDTH,
    ITEM_WIDTH,
    NUM_LAYERS,
    PUBLISHED,
    STANDARD,
    Form,
    Times,
    bundles,
    measure,
    open_form,
)
from tests.bench.gpu_rates import Rates, rates
from tests.bench.gpu_service import about_the_gpu, serve
from tests.bench.loads import console
from tests.scoring.memory_device import MemoryDevice

_AT, _LEAST_RATIO, _MOST_US, _MOST_MS, _MOST_GROWTH = 1000, 1.5, 100, 3, 0.01
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}

Found = dict[Shape, dict[str, Times]]


def main() -> int:
    """Measure and print; returns the process's exit status."""
    given = _arguments()
    try:
        device = MemoryDevice(2**34) if given.rehearse else CudaAccelerator()
    except DeviceError as error:
        raise SystemExit(f"no GPU to measure: {error}") from None
    console.print("a rehearsal: no figure means anything" if given.rehearse else about_the_gpu())
    console.print(f"ONNX Runtime {ort.__version__}, CUDA {ort.cuda_version}")
    best = rates(device, not given.rehearse)
    matrix = ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in best.matrix.items())
    console.print(f"copies {best.copy / 1e9:,.0f} GB/s; MatMul {matrix}")
    found = _measure_forms(device, given)
    for shape in found:
        console.print(_form_table(shape, found[shape], best))
    console.print(_batch_table(found, given.users, given.candidates))
    verdicts = _model_verdicts(found)
    del device
    gc.collect()
    where = "cpu" if given.rehearse else "cuda"
    p99, used = serve(where, given.items, given.candidates, given.requests, given.swaps, given.embedding_dim)
    verdicts += [(f"service, p99 at {count} candidates", f"{ms:.2f} ms", ms <= _MOST_MS) for count, ms in p99.items()]
    if used:
        growth = max(used) / max(used[0], 1) - 1
        told = f"{used[0]} to {used[-1]} MiB, at most {growth:+.1%}"
        verdicts.append((f"device memory over {given.swaps} swaps", told, growth <= _MOST_GROWTH))
    console.print(_verdict_table(verdicts))
    return 0 if all(held for *_, held in verdicts) or given.rehearse else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 10, 100, 1000, 4096])
    parser.add_argument("--users", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=2000, help="to the service, of each number of candidates")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--embedding-dim", type=int, default=128, help="of the service's model; 128 is the paper's")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU: whether this program works")
    given = parser.parse_args()
    given.candidates, given.users = sorted(set(given.candidates)), sorted({1, *given.users})
    return given


def _measure_forms(device: CudaAccelerator | MemoryDevice, given: argparse.Namespace) -> Found:
    """Open every form and time all of them, a shape at a time; forms that did not open are told of."""
    most = given.users[-1] * given.candidates[-1]
    several = Buckets(tuple(given.candidates), tuple(given.users), most)
    alone = Buckets(tuple(given.candidates), (1,), given.candidates[-1])
    forms: list[Form] = []
    with bundles(given.items) as made:
        for name, bundle in made.items():
            # Its shapes are computed on the CPU, which no capture allows.
            for graphs in (False,) if name == PUBLISHED else (True, False):
                # As published a run holds a history for each candidate: for several users it would be gigabytes.
                forms.append(open_form(name, bundle, device, alone if name == PUBLISHED else several, graphs))
                if forms[-1].refused:
                    console.print(f"{forms[-1].label} is left out: {forms[-1].refused}")
    return {
        (users, count): measure(
            [form for form in forms if users == 1 or form.name != PUBLISHED], (users, count), given.runs
        )
        for users in given.users
        for count in given.candidates
    }


def _form_table(shape: Shape, times: dict[str, Times], best: Rates) -> Table:
    table = Table(title=f"{shape[0]} users x {shape[1]} candidates, microseconds")
    for column in ("", "device", "p50", "p99", "standard in a graph /", "of copies", "of MatMul"):
        table.add_column(column, justify="right")
    base = times.get(f"{STANDARD}, graph")
    for label, noted in times.items():
        ratio = "" if base is None else f"{base.device_us / noted.device_us:.2f}"
        p50, p99 = np.percentile(noted.host_us, [50, 99])
        shares = _shares(label, shape, noted.device_us, best)
        table.add_row(label, f"{noted.device_us:.1f}", f"{p50:.1f}", f"{p99:.1f}", ratio, *shares)
    return table


def _shares(label: str, shape: Shape, device_us: float, best: Rates) -> tuple[str, str]:
    """Return what share of the device's rates a folded form reaches: the least that must be read, and multiplied."""
    if label.startswith(PUBLISHED):
        return "", ""
    precision = FUSED.get(label.split(",")[0], "float32")
    rows = shape[0] * shape[1]
    weights = (NUM_LAYERS - 1) * INPUT_WIDTH**2 * _BYTES[precision]
    read = weights + 4 * (rows * (ITEM_WIDTH + INPUT_WIDTH) + shape[0] * HISTORY * (2 * ITEM_WIDTH + INPUT_WIDTH))
    operations = 2 * rows * ((NUM_LAYERS - 1) * INPUT_WIDTH**2 + HISTORY * (2 * ITEM_WIDTH + INPUT_WIDTH))
    copied = f"{read / device_us * 1e6 / best.copy:.0%}"
    rate = best.matrix.get(precision)
    return copied, "" if rate is None else f"{operations / device_us * 1e6 / rate:.0%}"


def _batch_table(found: Found, users: list[int], candidates: list[int]) -> Table:
    """Say how many times as long as one run of several users as many runs of one user take, on the device."""
    table = Table(title="as many runs of one user / one run of several users, in graphs")
    for column in ("", "candidates", *(f"{count} users" for count in users[1:])):
        table.add_column(column, justify="right")
    for name in (STANDARD, *FUSED):
        label = f"{name}, graph"
        for count in candidates:
            if label in found[1, count]:
                one = found[1, count][label].device_us
                ratios = [n * one / found[n, count][label].device_us for n in users[1:]]
                table.add_row(name, f"{count}", *(f"{ratio:.2f}" for ratio in ratios))
    return table


def _model_verdicts(found: Found) -> list[tuple[str, str, bool]]:
    times = found.get((1, _AT), {})
    standard = times.get(f"{STANDARD}, graph")
    fused = {name: times[f"{name}, graph"] for name in FUSED if f"{name}, graph" in times}
    if standard is None or not fused:
        return [(f"fused beside standard operations at {_AT}", "not measured", False)]
    verdicts = []
    for name, noted in fused.items():
        ratio = standard.device_us / noted.device_us
        verdicts.append((f"{name} / standard at {_AT}", f"{ratio:.2f}", ratio >= _LEAST_RATIO))
        verdicts.append((f"{name} at {_AT}", f"{noted.device_us:.0f} us", noted.device_us <= _MOST_US))
    return verdicts


def _verdict_table(verdicts: list[tuple[str, str, bool]]) -> Table:
    table = Table("bar", "measured", "")
    for name, value, held in verdicts:
        table.add_row(name, value, "held" if held else "[bold red]broken[/]")
    return table


if __name__ == "__main__":
    sys.exit(main())
