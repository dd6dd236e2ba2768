"""The scenarios that look for a limit of the service: where its SLO breaks, and what it does far beyond that."""

from collections.abc import Callable

from loadtest.arrivals import Segment
from loadtest.bench import Bench
from loadtest.outcome import Event, Finding, Outcome, Part
from loadtest.summary import windows

_FACTOR = 1.6
_MOST_STEPS = 12
_NUM_BISECTIONS = 3
_LEAST_ANSWERED = 0.95
_HALF = 0.5
_WINDOW_S = 0.25


def ramp(bench: Bench) -> Outcome:
    """Raise the rate until the SLO breaks, then look closer where; each step lasts the whole duration.

    A step that breaks it is repeated: other work on the machine seldom comes twice. Judged is the last one at the
    rate that was asked for. If even that breaks, the rate is lowered.
    """
    options, parts = bench.options, list[Part]()

    def once(rate: float) -> bool:
        parts.append(bench.load(f"{rate:,.4g}/s", [Segment(options.duration_s, rate)]))
        summary = parts[-1].summary
        kept_up = summary.answered >= _LEAST_ANSWERED * summary.requests
        return bench.slo.held(summary) and kept_up

    def holds(rate: float) -> bool:
        return once(rate) or once(rate)

    held, broken = _limits(options.rate, holds)
    judged = [part for part in parts if part.rate == options.rate][-1]
    if held is not None and broken is not None:
        for _ in range(_NUM_BISECTIONS):
            middle = (held * broken) ** 0.5
            held, broken = (middle, broken) if holds(middle) else (held, middle)
    most = max(part.summary.answered_per_s for part in parts)
    findings = (
        Finding("highest rate that held the SLO", held, "requests/s"),
        Finding("lowest rate that broke it", broken, "requests/s"),
        Finding("most answered", most, "requests/s"),
    )
    ordered = sorted(parts, key=lambda part: part.rate or 0)
    timeline = next((part for part in reversed(ordered) if part.rate == held), judged)
    return Outcome(ordered, judged, timeline, [], findings)


def _limits(rate: float, holds: Callable[[float], bool]) -> tuple[float | None, float | None]:
    """Return a rate that holds and a higher one that does not, as far as there are any within reach."""
    up = holds(rate)
    held, broken = (rate, None) if up else (None, rate)
    for _ in range(_MOST_STEPS):
        rate = rate * _FACTOR if up else rate / _FACTOR
        if holds(rate):
            held = rate
        else:
            broken = rate
        if held is not None and broken is not None:
            break
    return held, broken


def overload(bench: Bench) -> Outcome:
    """Send half of what saturates the service, then several times that, then half again.

    Judged are those admitted in the overload; whether anything is shed is the service's business.
    """
    options = bench.options
    saturation = bench.saturation()
    capacity = saturation.summary.answered_per_s
    third_s = options.duration_s / 3
    rates = (_HALF * capacity, options.overload * capacity, _HALF * capacity)
    whole = bench.load("overload, all of it", [Segment(third_s, rate) for rate in rates])
    names = ("half load", f"{options.overload:g} x saturation", "half load again")
    half, over, again = (
        bench.cut(whole, name, rate, number * third_s, (number + 1) * third_s)
        for number, (name, rate) in enumerate(zip(names, rates, strict=True))
    )
    calm, pressed = half.summary.latency_ms["p99"], over.summary.latency_ms["p99"]
    findings = (
        Finding("saturation", capacity, "requests/s"),
        Finding("p99 at half load", calm, "ms"),
        Finding("p99 of the admitted in overload", pressed, "ms"),
        Finding("ratio", pressed / calm if calm and pressed else None),
        Finding("answers a second while overloaded", _answers_per_s(whole, third_s, 2 * third_s)),
        Finding("shed in overload", f"{over.summary.num_shed / max(over.summary.requests, 1):.1%}"),
        Finding("p99 of a refusal", over.summary.shed_ms["p99"], "ms"),
        Finding("recovered after", recovery_s(again, 2 * third_s, calm), "s"),
    )
    events = [Event("overload", third_s, 2 * third_s)]
    return Outcome([saturation, half, over, again], over, whole, events, findings)


def _answers_per_s(part: Part, start_s: float, end_s: float) -> float:
    """Return how many answers came in a stretch of time, whenever their requests were due."""
    done_s = part.samples.done_s[part.samples.ok]
    return float(((done_s >= start_s) & (done_s < end_s)).sum()) / (end_s - start_s)


def recovery_s(after: Part, end_s: float, calm_ms: float | None) -> float | None:
    """Return how long after an overload a service is itself again; None if it is not within the part.

    It is from the first quarter of a second in which nothing failed or was shed, and in which half of the requests
    took no longer than nearly all did before.
    """
    if calm_ms is None:
        return None
    for window in windows(after.samples, after.duration_s, _WINDOW_S, end_s):
        if not window.failed and not window.shed and window.p50 is not None and window.p50 <= calm_ms:
            return window.start_s - end_s
    return None
