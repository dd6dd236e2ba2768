import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from structlog.testing import capture_logs

from service import watching
from service.stages import STAGES
from service.tracing import Tracing, is_asked_for, open_tracing
from tests.service.conftest import Store
from tests.service.running import Running, await_ready, make_settings, running, serving_process, wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
RANK = {"user_id": 42, "candidates": [1, 2, 5000]}


class Receiver:
    """An OTLP/HTTP collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        kept = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                kept.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self):
        """All spans, as they were sent."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @contextmanager
    def running(self) -> "Iterator[Receiver]":
        """Listen for as long as the block runs."""
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@pytest.fixture
def traced(
    store: Store, stocked_url, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Running, InMemorySpanExporter]]:
    """A service whose spans are kept in memory."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(watching, "open_tracing", lambda: Tracing(provider))
    with running(make_settings(store.folder, stocked_url)) as service:
        yield service, exporter


def finished(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    """A span, once it has ended."""
    wait_until(lambda: any(span.name == name for span in exporter.get_finished_spans()))
    (span,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return span


def test_a_rank_is_a_span_with_its_stages(traced, store: Store):
    """It carries on the caller's trace, says what was ranked, and its stages follow one upon the other within it."""
    service, exporter = traced
    service.http.post("/v1/rank", json=RANK, headers={**PARENT, "X-Request-Id": "r7"}).raise_for_status()
    request = finished(exporter, "POST /v1/rank")
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == SPAN
    assert request.kind is SpanKind.SERVER
    found = {name: value for name, value in request.attributes.items() if name.startswith("qin.")}
    assert found == {
        "qin.request_id": "r7",
        "qin.num_users": 1,
        "qin.num_candidates": 3,
        "qin.versions": (store.new.name,),
        "qin.degraded": (),
    }
    stages = [finished(exporter, f"rank {stage}") for stage in STAGES]
    assert all(stage.parent.span_id == request.context.span_id for stage in stages)
    assert all(before.end_time == after.start_time for before, after in pairwise(stages))
    assert all(stage.start_time <= stage.end_time for stage in stages)
    assert stages[-1].end_time <= request.end_time


def test_a_caller_that_is_not_sampled_makes_no_spans(traced):
    """The caller's decision holds."""
    service, exporter = traced
    service.http.post("/v1/rank", json=RANK, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"}).raise_for_status()
    service.http.get("/v2/health/live")
    finished(exporter, "GET /v2/health/live")
    assert [span.name for span in exporter.get_finished_spans()] == ["GET /v2/health/live"]


@pytest.mark.parametrize("workers", [1, 2])
def test_spans_reach_a_collector(
    store: Store, stocked_url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    """The standard environment is enough; what is left is sent at the end."""
    with Receiver().running() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        settings = {"store": store.folder, "redis_url": stocked_url, "workers": workers}
        with serving_process(tmp_path / "log", **settings) as process:
            httpx.post(f"{await_ready(process)}/v1/rank", json=RANK, headers=PARENT, timeout=30).raise_for_status()
            process.terminate()
            assert process.wait(60) == 0
        wait_until(lambda: len(receiver.spans) >= 1 + len(STAGES))
        spans = {span.name: span for span in receiver.spans}
        assert spans.keys() == {"POST /v1/rank", *(f"rank {stage}" for stage in STAGES)}
        assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
        attributes = {
            one.key: one.value.string_value for one in receiver.requests[0].resource_spans[0].resource.attributes
        }
        assert (attributes["service.name"], attributes["deployment.environment"]) == ("qin", "test")


def test_a_collector_that_is_away_costs_nobody_an_answer(
    store: Store, stocked_url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Answers come as always, and so does an orderly end."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")
    with serving_process(tmp_path / "log", store=store.folder, redis_url=stocked_url) as process:
        url = await_ready(process)
        for _ in range(20):
            httpx.post(f"{url}/v1/rank", json=RANK, timeout=30).raise_for_status()
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://a"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False),
    ],
)
def test_the_standard_environment_decides(environment, asked):
    """An endpoint or an exporter asks for traces; `none` and a disabled SDK do not."""
    assert is_asked_for(environment) is asked


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_what_cannot_be_made_is_said_and_left_out(environment):
    """A service starts whatever is wrong with its traces."""
    with capture_logs() as logged:
        assert open_tracing(environment) is None
    assert logged[0]["event"].startswith("no traces")


def test_what_makes_and_sends_spans_is_not_imported_unless_asked_for():
    """Who wants no traces does not pay for them."""
    # The client of Redis imports the metrics of the SDK, if it is there.
    code = (
        "import os, sys; from service import app, replica; from service.tracing import open_tracing; "
        "assert open_tracing({}) is None; "
        "dear = ('opentelemetry.sdk.trace', 'opentelemetry.exporter'); "
        "print([name for name in sys.modules if name.startswith(dear)])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
