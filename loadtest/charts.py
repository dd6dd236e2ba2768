"""The report's drawings, as SVG that stands in a page by itself."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtest.outcome import Event, Part
from loadtest.server import Stage
from loadtest.summary import windows

_INK, _SOFT, _GRID = "#1c2430", "#5b6675", "#d9dee5"
_BLUE, _ORANGE, _RED, _GREEN, _PURPLE = "#0b62b8", "#c2570c", "#b3261e", "#2e7d4f", "#7048a8"
_STYLE: Any = {
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.labelcolor": _SOFT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}
_LONG_S = 20.0
_LEAST_MS = 1e-3
_FEW_DECADES = 2.5


def over_time(part: Part, events: Sequence[Event]) -> str:
    """Draw latency window by window, with what was done to the service behind it."""
    window_s = 1.0 if part.duration_s >= _LONG_S else 0.25
    found = list(windows(part.samples, part.duration_s, window_s))
    middles = [window.start_s + window_s / 2 for window in found]
    with _figure(820, 300) as (figure, drawn):
        axes = figure.subplots()
        _mark(axes, events)
        for name, color, width in (("max", _RED, 0.9), ("p99", _ORANGE, 1.6), ("p50", _BLUE, 1.6)):
            values = [np.nan if (value := getattr(window, name)) is None else value for window in found]
            axes.plot(middles, values, color=color, linewidth=width, label=name, marker=".", markersize=4)
        _milliseconds(axes)
        axes.set_xlabel("seconds")
        axes.set_xlim(0, part.duration_s)
        _legend(axes)
    return drawn[0]


def answers_over_time(part: Part, events: Sequence[Event]) -> str:
    """Draw what became of the requests due in each window: answered, shed or failed."""
    window_s = 1.0 if part.duration_s >= _LONG_S else 0.25
    found = list(windows(part.samples, part.duration_s, window_s))
    edges = [window.start_s for window in found] + [part.duration_s]
    failed, shed = (np.array([getattr(window, name) for window in found]) for name in ("failed", "shed"))
    answered = np.array([window.requests for window in found]) - failed - shed
    with _figure(820, 220) as (figure, drawn):
        axes = figure.subplots()
        _mark(axes, events)
        base = np.zeros(len(found))
        for name, counts, color in (("answered", answered, _BLUE), ("shed", shed, _ORANGE), ("failed", failed, _RED)):
            if counts.any():
                top = base + counts / window_s
                axes.stairs(top, edges, baseline=base, fill=True, color=color, alpha=0.75, label=name)
                base = top
        axes.set_xlabel("seconds")
        axes.set_ylabel("requests/s")
        axes.set_xlim(0, part.duration_s)
        axes.set_ylim(bottom=0)
        _legend(axes)
    return drawn[0]


def by_percentile(part: Part) -> str:
    """Draw latency against its percentile, to the last request."""
    samples = part.samples
    curves = (
        ("since due", samples.latency_ms[samples.timed], _BLUE),
        ("since sent", (samples.done_s - samples.sent_s)[samples.timed] * 1e3, _ORANGE),
        ("generator's lateness", (samples.picked_s - samples.intended_s) * 1e3, _SOFT),
    )
    with _figure(520, 320) as (figure, drawn):
        axes = figure.subplots()
        for name, values, color in curves:
            if len(values):
                ascending = np.sort(values).clip(min=_LEAST_MS)
                rest = 1 - np.arange(len(ascending)) / len(ascending)
                kept = _thinned(len(ascending))
                axes.plot(1 / rest[kept], ascending[kept], color=color, linewidth=1.6, label=name)
        _milliseconds(axes)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 - 100 / value:.6g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("percentile")
        _legend(axes)
    return drawn[0]


def against_rate(parts: Sequence[Part]) -> str:
    """Draw latency, and what was answered, against the rate that was asked for."""
    ordered = sorted((part for part in parts if part.rate is not None), key=lambda part: part.rate or 0)
    rates = [part.rate or 0 for part in ordered]
    with _figure(520, 320) as (figure, drawn):
        axes, counted = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        for name, color in (("p50", _BLUE), ("p90", _GREEN), ("p99", _ORANGE), ("p99.9", _RED)):
            values = [part.summary.latency_ms[name] or np.nan for part in ordered]
            axes.plot(rates, values, color=color, linewidth=1.6, marker="o", markersize=3.5, label=name)
        _milliseconds(axes)
        _legend(axes)
        answered = [part.summary.answered_per_s for part in ordered]
        counted.plot(rates, rates, color=_SOFT, linewidth=0.9, linestyle="--", label="asked")
        counted.plot(rates, answered, color=_BLUE, linewidth=1.6, marker="o", markersize=3.5, label="answered")
        counted.set_ylabel("answered/s")
        counted.set_xlabel("requests/s")
        counted.set_ylim(bottom=0)
        _legend(counted)
    return drawn[0]


def stage_shares(stages: Sequence[Stage]) -> str:
    """Draw how a rank's time in the service is made up."""
    with _figure(520, 60 + 30 * len(stages)) as (figure, drawn):
        axes = figure.subplots()
        names = [stage.name for stage in stages][::-1]
        bars = axes.barh(names, [stage.mean_ms for stage in stages][::-1], color=_BLUE, alpha=0.8, height=0.62)
        texts = [f"{stage.mean_ms:.3g} ms, {stage.share:.1%}" for stage in stages][::-1]
        axes.bar_label(bars, texts, padding=4, color=_SOFT)
        axes.set_xlabel("mean, ms")
        axes.margins(x=0.28)
        axes.grid(visible=False, axis="y")
    return drawn[0]


def _thinned(count: int, most: int = 800) -> "np.ndarray":
    """Return positions of a sorted column that draw it: all of a short one, ever denser to the end of a long one."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.concatenate([count - 1 - np.geomspace(1, count, most).astype(int).clip(max=count) + 1, [0]]))


def _mark(axes: Axes, events: Sequence[Event]) -> None:
    for number, event in enumerate(events):
        label = event.kind if number == 0 else None
        axes.axvspan(event.start_s, event.end_s, color=_PURPLE, alpha=0.16, linewidth=0, label=label)


def _milliseconds(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.set_ylabel("ms")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    # Within few decades their own numbers would be too few to read anything by.
    few = np.log10(high / low) < _FEW_DECADES
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}") if few else NullFormatter())
    axes.grid(which="minor", axis="y", linewidth=0.4)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, borderaxespad=0.2, handlelength=1.4)


@contextmanager
def _figure(width: int, height: int) -> Iterator[tuple[Figure, list[str]]]:
    """Give a figure of some size in pixels, and a list that holds its SVG after the block."""
    drawn: list[str] = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width / 100, height / 100), layout="constrained")
        yield figure, drawn
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    drawn.append(text[text.index("<svg") :])
