"""Charts as SVG, drawn here: a report needs nothing from the network and no library of charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 14, 14, 40


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; `kind` is a class of the page's style sheet."""

    kind: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = True


def chart(lines: Sequence[Line], x_name: str, y_name: str, log_y: bool = False, mark_x: float | None = None) -> str:
    """Return a chart of lines.

    Parameters
    ----------
    log_y
        Draw the logarithm of y, which is positive.
    mark_x
        Where a vertical line stands, such as the epoch that was kept.
    """
    ys = [value for line in lines for value in line.y]
    xs = [value for line in lines for value in line.x]
    across, up = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT), _y_axis(ys, log_y)
    parts = [_grid(up, log_y), _x_ticks(across), _names(x_name, y_name)]
    if mark_x is not None:
        place = across(mark_x)
        parts.append(f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    for line in lines:
        values = [np.log10(value) if log_y else value for value in line.y]
        points = [(across(x), up(float(y))) for x, y in zip(line.x, values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
        if line.dots:
            parts += [f'<circle class="dot {line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in points]
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_name)}">{"".join(parts)}</svg>'


@dataclass(frozen=True, slots=True)
class _Axis:
    """Numbers to places on the page."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def _y_axis(values: Sequence[float], log_y: bool) -> _Axis:
    if log_y:
        low, high = (float(np.log10(value)) for value in (min(values), max(values)))
    else:
        low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    return _Axis(low - margin, high + margin, _HEIGHT - _BOTTOM, _TOP)


def _grid(up: _Axis, log_y: bool) -> str:
    parts = []
    for tick in _ticks(up.low, up.high, 5):
        place = up(tick)
        label = f"{10**tick:.2g}" if log_y else _number(tick, up.high - up.low)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{place + 4:.1f}">{label}</text>')
    return "".join(parts)


def _x_ticks(across: _Axis) -> str:
    span = across.high - across.low
    whole = span >= 2
    ticks = [tick for tick in _ticks(across.low, across.high, 8) if not whole or tick == round(tick)]
    base = _HEIGHT - _BOTTOM + 16
    return "".join(
        f'<text class="tick middle" x="{across(tick):.1f}" y="{base}">{_number(tick, span)}</text>'
        for tick in ticks or [across.low]
    )


def _names(x_name: str, y_name: str) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return (
        f'<text class="name middle" x="{middle:.1f}" y="{_HEIGHT - 6}">{escape(x_name)}</text>'
        f'<text class="name middle" transform="translate(12 {(_TOP + _HEIGHT - _BOTTOM) / 2:.1f}) rotate(-90)">'
        f"{escape(y_name)}</text>"
    )


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most so many round numbers between two."""
    if not high > low:
        return [low]
    step = 10.0 ** np.floor(np.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    first = np.ceil(low / step - 1e-9)
    return [float(round(tick * step, 12)) for tick in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def _number(value: float, span: float) -> str:
    """Return a number with as many digits as tell it from its neighbours."""
    digits = max(0, int(np.ceil(-np.log10(span))) + 1) if 0 < span < 10 else 0
    text = f"{value + 0.0:,.{digits}f}"  # no minus before a zero
    return text.rstrip("0").rstrip(".") if "." in text else text
