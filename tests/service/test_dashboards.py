"""What watches the service from outside, held against what the service tells."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.board import Board, ProcessCollector
from tests.service.conftest import Store
from tests.service.running import make_settings, running, wait_until

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "qin.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
TABLE = ROOT / "docs" / "observability.md"

BY_PROMETHEUS = {"job", "instance"}
"""Labels that scraping adds."""
_SELECTOR = re.compile(r"(qin_\w+)(?:\{([^}]*)\})?")
_BY = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")

Told = dict[str, set[str]]
"""Series by name, each with the labels that it has."""


def parse(text: str) -> Told:
    told: defaultdict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            told[sample.name] |= sample.labels.keys()
    return dict(told)


@pytest.fixture(scope="module")
def text(store: Store, valkey) -> str:
    """The metrics of a service that has served, with a version on trial, and those of many processes."""
    url = f"unix://{valkey.unix_socket_path}"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    with running(make_settings(store.folder, url)) as service:
        service.client.rank(1, [1, 2, 5000])
        promotion = {"version": store.old.name, "canary": 0.5}
        service.http.post("/v1/models/qin/promote", json=promotion).raise_for_status()
        wait_until(lambda: "\nqin_active{" in service.http.get("/metrics").text)
        processes = CollectorRegistry()
        processes.register(ProcessCollector(Board()))
        return service.http.get("/metrics").text + generate_latest(processes).decode()


@pytest.fixture(scope="module")
def told(text: str) -> Told:
    return parse(text)


def expressions_of(content: Any) -> list[str]:
    """All queries of a dashboard, or of a file of rules."""
    if isinstance(content, list):
        return [expression for one in content for expression in expressions_of(one)]
    if not isinstance(content, dict):
        return []
    own = [value for key, value in content.items() if key in ("expr", "definition") and isinstance(value, str)]
    return own + [expression for one in content.values() for expression in expressions_of(one)]


def strange(expression: str, told: Told) -> list[str]:
    """What of an expression no service tells."""
    wrong, labels = [], set(BY_PROMETHEUS)
    for name, selected in _SELECTOR.findall(expression):
        if name not in told:
            wrong.append(name)
            continue
        labels |= told[name]
        chosen = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selected))
        wrong += [f"{name}{{{label}}}" for label in chosen - told[name] - BY_PROMETHEUS]
    for listed in _BY.findall(expression):
        wrong += [label for label in re.findall(r"\w+", listed) if label not in labels]
    return wrong


@pytest.mark.parametrize("path", [DASHBOARD, ALERTS], ids=lambda path: path.name)
def test_everything_that_is_watched_is_told(path: Path, told: Told):
    """Each metric, with each label by which it is chosen or grouped."""
    expressions = expressions_of(yaml.safe_load(path.read_text()))
    assert len(expressions) > 10
    assert {expression: wrong for expression in expressions if (wrong := strange(expression, told))} == {}


def test_a_metric_or_label_that_nobody_tells_is_found(told: Told):
    """The test above objects to what is misspelt."""
    assert strange('sum by (stage) (rate(qin_rank_second_count{job="a"}[5m]))', told) == [
        "qin_rank_second_count",
        "stage",
    ]
    assert strange('sum by (le, reason) (qin_rank_stage_seconds_bucket{stag="a"})', told) == [
        "qin_rank_stage_seconds_bucket{stag}",
        "reason",
    ]


def test_every_metric_is_in_the_table(text: str):
    """With exactly its labels."""
    documented = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("| `qin_"):
            names, labels = (re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:3])
            documented |= {name: set(labels) for name in names}
    families = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        families[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert {name for name in documented if name not in families} == set()
    assert {name: labels for name, labels in families.items() if documented.get(name) != labels} == {}


def test_the_dashboard_is_whole():
    """Panels have numbers of their own, do not overlap, and take their data from the source that was chosen."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    sources = {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"}
    assert sources == {"${datasource}"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_understands_it(text: str, tmp_path: Path):
    """Rules, queries of the dashboard and the metrics themselves pass promtool."""
    expressions = expressions_of(json.loads(DASHBOARD.read_text())["panels"])
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions)
    ]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for path in (ALERTS, tmp_path / "panels.yml"):
        done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
