"""The report of a load test: a table to read at once, figures for machines, and a page that needs nothing else."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from loadtest import charts
from loadtest.options import Options
from loadtest.outcome import Outcome, Part
from loadtest.server import Stage
from loadtest.slo import Check
from loadtest.summary import PERCENTILES, Distribution, windows

PAGE, FIGURES, SAMPLES = "report.html", "report.json", "samples.npz"
_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_LATE_MS, _LATE_SHARE = 1.0, 0.1
_LEAST_RATES = 3


@dataclass(frozen=True, slots=True)
class Report:
    """All that is told of a load test.

    Attributes
    ----------
    served_by
        The version that answered first.
    stages
        What the service says that ranks were made up of meanwhile; none where it does not say.
    mean_rank_ms
        What a rank took inside of the service.
    """

    options: Options
    outcome: Outcome
    checks: Sequence[Check]
    served_by: str
    stages: Sequence[Stage]
    mean_rank_ms: float | None

    @property
    def held(self) -> bool:
        """Whether the SLO was kept."""
        return all(check.held for check in self.checks)

    @property
    def remarks(self) -> list[str]:
        """What makes the figures worth less than they seem."""
        found = []
        late = {part.name: value for part in self.outcome.parts if (value := _lateness(part)) is not None}
        if late:
            name = max(late, key=late.__getitem__)
            found.append(
                f"the generator itself was late, by {late[name]:.1f} ms at p99 where it was most ({name}), which "
                "counts as latency: run it on a machine of its own, or with more processes"
            )
        resent = sum(part.summary.resent for part in self.outcome.parts)
        if resent:
            found.append(f"{resent} requests were sent twice, for their connection was closed as they were sent")
        return found


def tables(report: Report) -> list[Table]:
    """Return what is printed: the parts, what the scenario found, and the SLO."""
    names = list(PERCENTILES)
    parts = Table(
        *_columns("", "asked", "done", *names, "shed", "failed", "late"),
        title=_title(report),
        caption="asked, done: requests a second; times in ms; late: the generator at p99",
        box=SIMPLE_HEAD,
        padding=0,
    )
    for part in report.outcome.parts:
        parts.add_row(*_row(part, names))
    found = Table("", "", show_header=False)
    for finding in report.outcome.findings:
        found.add_row(finding.name, str(finding))
    bounds = Table("SLO", "at most", "measured", "")
    for check in report.checks:
        verdict = "held" if check.held else "[bold red]broken[/]"
        limit, value = check.bound.shown(check.bound.limit), check.bound.shown(check.value)
        bounds.add_row(check.bound.name, limit, value, verdict)
    return [parts, *([found] if report.outcome.findings else []), bounds]


def _columns(first: str, *names: str) -> list[Column]:
    """Return columns that fit side by side into a terminal of 80; names and counts go on in the next line."""
    broken = {"shed", "failed"}
    return [
        Column(first, min_width=11),
        *(Column(name, justify="right", no_wrap=name not in broken) for name in names),
    ]


def write(report: Report, folder: Path) -> Path:
    """Write page, figures and samples into a folder; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    timeline = report.outcome.timeline
    columns: dict[str, Any] = timeline.samples.columns()
    np.savez_compressed(folder / SAMPLES, **columns)
    (folder / FIGURES).write_bytes(msgspec.json.format(msgspec.json.encode(figures(report))) + b"\n")
    (folder / PAGE).write_text(_page(report))
    return folder / PAGE


def figures(report: Report) -> dict[str, Any]:
    """Return everything measured, as JSON has it."""
    outcome = report.outcome
    return {
        "scenario": report.options.scenario,
        "held": report.held,
        "slo": [
            {"name": check.bound.name, "limit": check.bound.limit, "value": check.value, "held": check.held}
            for check in report.checks
        ],
        "judged": outcome.judged.name,
        "parts": [
            {"name": part.name, "rate": part.rate, "summary": _builtins(part.summary)} for part in outcome.parts
        ],
        "findings": {finding.name: finding.value for finding in outcome.findings},
        "events": [_builtins(event) for event in outcome.events],
        "seconds": [_builtins(window) for window in windows(outcome.timeline.samples, outcome.timeline.duration_s)],
        "stages": [_builtins(stage) for stage in report.stages],
        "mean_rank_ms": report.mean_rank_ms,
        "remarks": report.remarks,
        "setting": _setting(report),
    }


def _page(report: Report) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text())
    outcome = report.outcome
    drawings = [
        ("Latency over time", charts.over_time(outcome.timeline, outcome.events)),
        ("What became of the requests that were due", charts.answers_over_time(outcome.timeline, outcome.events)),
    ]
    smaller = [("Latency by percentile", charts.by_percentile(outcome.timeline))]
    if len({part.rate for part in outcome.parts if part.rate is not None}) >= _LEAST_RATES:
        smaller.append(("Against the rate", charts.against_rate(outcome.parts)))
    if report.stages:
        smaller.append(("A rank inside of the service", charts.stage_shares(report.stages)))
    return template.render(
        title=_title(report),
        report=report,
        outcome=outcome,
        summary=outcome.judged.summary,
        names=list(PERCENTILES),
        rows=[_row(part, list(PERCENTILES)) for part in outcome.parts],
        distributions=_distributions(outcome.judged),
        drawings=drawings,
        smaller=smaller,
        setting=_setting(report),
        ms=_ms,
    )


def _title(report: Report) -> str:
    return f"{report.options.scenario} against {report.options.url}"


def _row(part: Part, names: Sequence[str]) -> list[str]:
    summary = part.summary
    asked = "-" if part.rate is None else _per_s(summary.offered_per_s)
    values = [_ms(summary.latency_ms[name]) for name in names]
    counts = [_counted(summary.shed), _counted(summary.failures)]
    return [part.name, asked, _per_s(summary.answered_per_s), *values, *counts, _ms(summary.lateness_ms["p99"])]


def _distributions(part: Part) -> list[tuple[str, Distribution]]:
    summary = part.summary
    return [
        ("latency, from the moment it was due", summary.latency_ms),
        ("from the moment it was sent", summary.from_send_ms),
        ("shed, until refused", summary.shed_ms),
        ("generator's lateness", summary.lateness_ms),
        ("wait for a connection", summary.connection_wait_ms),
    ]


def _setting(report: Report) -> dict[str, str]:
    """Return what the figures depend on, the key left out."""
    options = report.options
    sizes = ", ".join(
        f"{number} ({share:.0%})"
        for number, share in zip(options.mix.num_candidates, options.mix.shares, strict=True)
    )
    generators = options.generators
    judged = report.outcome.judged.summary
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "service": f"{options.url}, model {options.model}, version {report.served_by}",
        "candidates a request": sizes,
        "rate, duration, warm-up": f"{options.rate:g}/s, {options.duration_s:g} s, {options.warmup_s:g} s",
        "arrivals": f"{options.spacing}, seed {options.seed}, Zipf exponent {options.zipf:g}",
        "generator": f"{generators.num_processes} processes, at most {generators.num_connections} connections, "
        f"time limit {generators.timeout_s:g} s, {os.cpu_count()} processors, {platform.machine()}",
        "generator's processor time": f"{judged.generator_cpu_s:.2f} s",
        "qin-ranker": version("qin-ranker"),
    }


def _lateness(part: Part) -> float | None:
    """Return the generator's lateness in ms where it is a good part of the latency."""
    late, latency = part.summary.lateness_ms["p99"] or 0, part.summary.latency_ms["p99"] or 0
    return late if part.rate is not None and late > _LATE_MS and late > _LATE_SHARE * latency else None


def _per_s(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} x {name}" for name, count in counts.items()) or "0"


def _builtins(value: object) -> Any:
    return msgspec.to_builtins(value)
