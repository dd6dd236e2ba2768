"""What is printed: ratios first, then what they are made of."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from tests.bench.peers.comparison import FIGURES, best_peer, ratios, spread
from tests.bench.peers.servers import OURS, SERVERS, Setup
from tests.bench.peers.turn import Turn

_PACKAGES = ("onnxruntime-gpu", "onnxruntime", "numpy", "redis", "fastapi", "uvicorn")


@dataclass(frozen=True, slots=True)
class Results:
    """All turns at one number of candidates, in rounds, by server; servers that failed are named with the reason."""

    num_candidates: int
    equal_rate: float
    turns: Mapping[str, Sequence[Turn]]
    chosen: Mapping[str, Setup]
    tried: Mapping[str, Mapping[Setup, float]]
    distances: Mapping[str, float]
    failed: Mapping[str, str]


def settings_lines(environments: Mapping[str, str]) -> Iterator[str]:
    """Yield the machine and the versions."""
    yield f"machine: {_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start"
    yield f"qin serve: {', '.join(f'{name} {there}' for name in _PACKAGES if (there := _version(name)))}"
    for name, shown in environments.items():
        yield f"{name}: {shown}"


def tables(results: Results) -> Iterator[Table | str]:
    """Yield the tables of one number of candidates, and what there is to say beside them."""
    yield _ratio_table(results)
    best = best_peer(results.turns, [server.name for server in SERVERS if server.environment is not None])
    published = [server.name for server in SERVERS if server.name.startswith("as published")]
    of_published = best_peer(results.turns, published)
    for what, name in (("server of the model as published", of_published), ("other server of all", best)):
        if name is not None:
            times = ratios(results.turns[OURS.name], results.turns[name], FIGURES[0])
            yield f"{times.shown()} times the requests/s of the best {what} ({name})"
    yield _figure_table(results)
    for name, turns in results.turns.items():
        if failed := sum(turn.failed for turn in turns):
            yield f"{name}: {failed} requests failed, so its figures are not what they seem"
    yield _setup_table(results)
    for reason in results.failed.values():
        yield f"left out: {reason.splitlines()[0]}"


def _ratio_table(results: Results) -> Table:
    title = f"{results.num_candidates} candidates: {OURS.name} is so many times better than"
    table = Table("", *(figure.name for figure in FIGURES), title=title)
    for name, turns in results.turns.items():
        if name != OURS.name:
            found = [ratios(results.turns[OURS.name], turns, figure) for figure in FIGURES]
            table.add_row(name, *(each.shown(1 if each.middle >= 10 else 2) for each in found))
    return table


def _figure_table(results: Results) -> Table:
    at = f"ms at {results.equal_rate:.1f}/s"
    columns: dict[str, Callable[[Turn], float]] = {
        "requests/s": lambda turn: turn.most.per_s,
        f"p50 {at}": lambda turn: turn.equal.p50_ms,
        f"p99 {at}": lambda turn: turn.equal.p99_ms,
        "p50 ms at half": lambda turn: turn.half.p50_ms,
        "p99 ms at half": lambda turn: turn.half.p99_ms,
        "CPU s per 1,000": lambda turn: turn.most.cpu_s_per_1000,
        "MB": lambda turn: turn.memory / 1e6,
    }
    title = (
        f"{results.num_candidates} candidates: the most requests/s; latency at one rate for all, at half of the most"
    )
    table = Table("", *columns, title=title)
    for name, turns in results.turns.items():
        found = [spread([value(turn) for turn in turns]) for value in columns.values()]
        table.add_row(name, *(each.shown(0 if each.middle >= 1000 else 1) for each in found))
    return table


def _setup_table(results: Results) -> Table:
    title = (
        "processes x threads: the better one of what was tried, in requests/s; and the largest distance of a score"
    )
    table = Table("", "taken", "tried", "distance", title=title)
    for name, setup in results.chosen.items():
        tried = ", ".join(f"{each}: {per_s:.1f}" for each, per_s in results.tried[name].items())
        table.add_row(name, f"{setup}", tried, f"{results.distances[name]:.1e}")
    return table


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
