"""Three times what the service can do: what is admitted, what is refused and how soon, and how it recovers.

    python -m tests.bench.overload [--factor 3] [--seconds 20] [--candidates 100] [--embedding-dim 128] [--workers 1]

Half of what saturates the service, several times as much, then half again, so many seconds each, in one open loop.

Status 0 if nothing failed or timed out, those admitted kept the p99 of half load (1.5 times it at most, for the
generator, which sends several times as much, has the same cores), what was refused was refused within that time too,
answers did not become fewer than 70 % of saturation, and the service was itself again within a second.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.table import Table

from loadtest.bench import Bench
from loadtest.outcome import Outcome
from loadtest.report import Report, tables, write
from loadtest.searches import overload
from loadtest.server import read_metrics
from tests.bench.loads import Service, console, service

_LEAST_ANSWERED, _MOST_RECOVERY_S = 0.7, 1.0


def main() -> int:
    """Overload a service of its own and print what came of it; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overload", description=__doc__.splitlines()[0])
    parser.add_argument("--factor", type=float, default=3, help="times saturation")
    parser.add_argument("--seconds", type=float, default=20, help="of each part")
    parser.add_argument("--candidates", default="100", help="of a request, or a mix such as 10:5,100:4,1000:1")
    parser.add_argument("--items", type=int, default=5000, help="91718 are the paper's")
    parser.add_argument("--embedding-dim", type=int, default=128, help="128 is the paper's")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--most-ratio",
        type=float,
        default=1.5,
        help="of the p99 of those admitted to that of half load",
    )
    parser.add_argument("--report", type=Path, default=None, help="folder of a page and its figures")
    given = parser.parse_args()
    size = {"num_items": given.items, "embedding_dim": given.embedding_dim, "workers": given.workers}
    with tempfile.TemporaryDirectory() as name, service(Path(name), **size) as running:
        outcome = _overload(running, given)
    return _verdict(outcome, given.most_ratio)


def _overload(running: Service, given: argparse.Namespace) -> Outcome:
    options = running.options(
        scenario="overload", duration_s=3 * given.seconds, overload=given.factor, candidates=given.candidates
    )
    bench = Bench(options)
    outcome = overload(bench)
    after = read_metrics(running.url, None)
    checks = bench.slo.checks(outcome.judged.summary)
    stages, mean_ms = after.stages_since(bench.before), after.mean_rank_ms_since(bench.before)
    report = Report(options, outcome, checks, bench.tried.version, stages, mean_ms)
    for table in tables(report)[:2]:
        console.print(table)
    for remark in report.remarks:
        console.print(f"note: {remark}", highlight=False, markup=False)
    if given.report is not None:
        console.print(f"report in {write(report, given.report)}", highlight=False)
    return outcome


def _verdict(outcome: Outcome, most_ratio: float) -> int:
    saturation, half, over, again = (part.summary for part in outcome.parts)
    found = {finding.name: finding.value for finding in outcome.findings}
    calm_ms, pressed_ms, refused_ms = half.latency_ms["p99"], over.latency_ms["p99"], over.shed_ms["p99"]
    failed = {name: count for part in (half, over, again) for name, count in part.failures.items()}
    bound_ms = most_ratio * (calm_ms or 0)
    share = float(found["answers a second while overloaded"] or 0) / saturation.answered_per_s
    recovered_s = found["recovered after"]
    bounds = (
        ("failed", ", ".join(f"{count} {name}" for name, count in failed.items()) or "none", not failed),
        (
            "p99 of those admitted",
            f"{pressed_ms or 0:.1f} ms, at half load {calm_ms or 0:.1f}",
            pressed_ms is not None and pressed_ms <= bound_ms,
        ),
        ("refused", ", ".join(f"{count} x {name}" for name, count in over.shed.items()) or "none", bool(over.shed)),
        ("p99 of a refusal", f"{refused_ms or 0:.1f} ms", refused_ms is not None and refused_ms <= bound_ms),
        ("answers, of saturation", f"{share:.0%}", share >= _LEAST_ANSWERED),
        (
            "itself again after",
            "not within the test" if recovered_s is None else f"{recovered_s} s",
            isinstance(recovered_s, float) and recovered_s <= _MOST_RECOVERY_S,
        ),
    )
    table = Table("", "measured", "", title="whether it held")
    for name, value, held in bounds:
        table.add_row(name, value, "held" if held else "[bold red]broken[/]")
    console.print(table)
    return 0 if all(held for _, _, held in bounds) else 1


if __name__ == "__main__":
    sys.exit(main())
