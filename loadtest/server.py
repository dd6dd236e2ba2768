"""What the service says of itself before and after a load: its metrics in Prometheus' text format."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from loadtest.errors import LoadTestError

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_STAGES = "qin_rank_stage_seconds"
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a rank: its share of all stages' time, and milliseconds a request."""

    name: str
    share: float
    mean_ms: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Samples by name and, of the stages, by stage."""

    values: Mapping[str, float]
    stage_sums: Mapping[str, float]
    stage_counts: Mapping[str, float]

    @property
    def num_items(self) -> int:
        """How many items the service ranks."""
        return int(self.values.get("qin_items", 0))

    def stages_since(self, before: "Metrics") -> list[Stage]:
        """Return what each stage took since then; none where the service does not say, or nothing was ranked."""
        spent = {name: total - before.stage_sums.get(name, 0) for name, total in self.stage_sums.items()}
        counts = {name: count - before.stage_counts.get(name, 0) for name, count in self.stage_counts.items()}
        whole = sum(spent.values())
        if whole <= 0:
            return []
        return [
            Stage(name, seconds / whole, 1e3 * seconds / counts[name])
            for name, seconds in spent.items()
            if counts.get(name, 0) > 0
        ]

    def mean_rank_ms_since(self, before: "Metrics") -> float | None:
        """Return what a rank took inside of the service since then, None where there was none."""
        ranks, seconds = (
            self.values.get(name, 0) - before.values.get(name, 0)
            for name in ("qin_rank_seconds_count", "qin_rank_seconds_sum")
        )
        return 1e3 * seconds / ranks if ranks > 0 else None


def parse_metrics(text: str) -> Metrics:
    """Read Prometheus' text format; samples that differ in labels alone are added up, but for the stages."""
    values: dict[str, float] = {}
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found is None:
            continue
        name, labels, value = found[1], dict(_LABEL.findall(found[2] or "")), float(found[3])
        values[name] = values.get(name, 0) + value
        if name in (f"{_STAGES}_sum", f"{_STAGES}_count"):
            kept, stage = (sums if name.endswith("_sum") else counts), labels["stage"]
            kept[stage] = kept.get(stage, 0) + value
    return Metrics(values, sums, counts)


def read_metrics(url: str, key: str | None) -> Metrics:
    """Ask a service for its metrics.

    Raises
    ------
    LoadTestError
        It does not answer, or refuses.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.get(f"{url}/metrics", headers=headers, timeout=_TIMEOUT_S)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise LoadTestError(f"{url} does not tell its metrics: {error}") from error
    return parse_metrics(response.text)
