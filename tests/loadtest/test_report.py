import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loadtest.command import measure
from loadtest.report import FIGURES, PAGE, SAMPLES, Report, write
from loadtest.server import parse_metrics
from tests.loadtest.conftest import Loaded

_KEY = "a-key-that-nobody-may-read"


@pytest.fixture(scope="module")
def report(loaded: Loaded) -> Report:
    options = loaded.options(scenario="swaps", pause_s=0.2, slo="p99=10s,errors=0", key=_KEY)
    return measure(options, Console(quiet=True))


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "deep" / "report"
    write(report, folder)
    return folder


class _Page(HTMLParser):
    """Collects everything in a page that a browser might fetch, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.wanted: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to."""
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href", "xlink:href", "action", "data", "poster", "background"):
                self.wanted.append(value or "")
            self.wanted += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_data(self, data: str) -> None:
        """Note what a style sheet refers to."""
        self.words.append(data)
        self.wanted += re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", data)


def test_the_page_asks_the_network_for_nothing(written: Path) -> None:
    """It has no script, no frame, no link, and refers to nothing but parts of itself."""
    page = _Page((written / PAGE).read_text())
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert {reference[:1] for reference in page.wanted} <= {"#"}
    assert "svg" in page.tags


def test_the_page_tells_what_was_found(written: Path, report: Report) -> None:
    """Verdict, figures, findings and the version that served are there to read."""
    text = " ".join(_Page((written / PAGE).read_text()).words)
    for words in ("SLO held", "p99 in swap windows", "Latency over time", report.served_by, "seed 1"):
        assert words in text


def test_the_figures_hold_everything_that_was_measured(written: Path, report: Report) -> None:
    """Percentiles, refusals, failures, lateness, processor time, windows, swaps and the SLO, as measured."""
    figures = json.loads((written / FIGURES).read_text())
    summary = report.outcome.judged.summary
    told = figures["parts"][0]["summary"]
    assert told["latency_ms"]["values"] == summary.latency_ms.values
    assert set(told["latency_ms"]["values"]) == {"p50", "p90", "p99", "p99.9", "max"}
    assert told["lateness_ms"]["count"] == summary.requests
    assert told["generator_cpu_s"] > 0
    assert told["failures"] == told["shed"] == {}
    assert sum(second["requests"] for second in figures["seconds"]) == summary.requests
    assert len(figures["events"]) == len(report.outcome.events) >= 1
    assert figures["held"] is True
    assert [bound["name"] for bound in figures["slo"]] == ["p99", "errors", "shed"]


def test_every_latency_is_kept(written: Path, report: Report) -> None:
    """The samples give the percentiles again."""
    with np.load(written / SAMPLES) as kept:
        latency_ms = (kept["done_s"] - kept["intended_s"]) * 1e3
    assert latency_ms.max() == report.outcome.judged.summary.latency_ms["max"]
    assert len(latency_ms) == report.outcome.judged.summary.requests


def test_a_key_is_not_told(written: Path) -> None:
    """It stands in no file of the report."""
    for path in written.iterdir():
        assert _KEY.encode() not in path.read_bytes()


_METRICS = """\
# TYPE qin_rank_stage_seconds histogram
qin_rank_stage_seconds_bucket{{stage="score",le="0.1"}} 3.0
qin_rank_stage_seconds_sum{{stage="score"}} {score}
qin_rank_stage_seconds_count{{stage="score"}} {count}
qin_rank_stage_seconds_sum{{stage="parse"}} {parse}
qin_rank_stage_seconds_count{{stage="parse"}} {count}
qin_items 120.0
"""


def test_stages_are_what_was_added_since_the_start() -> None:
    """Shares and means come from what sums and counts grew by."""
    before = parse_metrics(_METRICS.format(score=5.0, parse=1.0, count=10))
    after = parse_metrics(_METRICS.format(score=5.3, parse=1.1, count=110))
    assert before.num_items == 120
    stages = {stage.name: stage for stage in after.stages_since(before)}
    assert stages["score"].share == pytest.approx(0.75)
    assert stages["score"].mean_ms == pytest.approx(3)
    assert stages["parse"].mean_ms == pytest.approx(1)
    assert before.stages_since(before) == []


def test_the_service_tells_its_stages(report: Report) -> None:
    """What a rank is made of is told, and comes to no more than the whole of it."""
    assert report.mean_rank_ms is not None
    assert report.mean_rank_ms > 0
    shares = [stage.share for stage in report.stages]
    assert not shares or sum(shares) == pytest.approx(1)
