"""Spans of requests and of their stages, by OpenTelemetry, where its environment asks for them.

`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or `OTEL_TRACES_EXPORTER`, turns tracing on;
the SDK and its exporter read all other variables of the specification themselves. FastAPI makes the span of a
request, and carries on a trace that `traceparent` names.
"""

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from service.observers import Served

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
_LAST_S = 3.0

_log = structlog.get_logger(__name__)


class Tracing:
    """Makes spans, to be opened after the fork and closed at the end.

    Parameters
    ----------
    provider
        Where spans go.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace

        self.provider = provider
        self._tracer = provider.get_tracer("qin")
        self._current_span = trace.get_current_span

    def note(self, served: Served) -> None:
        """Add to the span of a request what it was, and its stages one after the other (an observer)."""
        span = self._current_span()
        if not span.is_recording():
            return
        call, rankings = served.call, served.rankings
        span.set_attributes(
            {
                "qin.request_id": call.request_id,
                "qin.num_users": len(rankings),
                "qin.num_candidates": sum(len(ranking.scores) for ranking in rankings),
                "qin.versions": sorted({ranking.version for ranking in rankings}),
                "qin.degraded": sorted({reason for ranking in rankings for reason in ranking.degraded}),
            }
        )
        # Stages follow one upon the other, and the last has just ended.
        start_ns = time.time_ns() - int(call.stages.total * 1e9)
        for stage, seconds in call.stages.items():
            end_ns = start_ns + int(seconds * 1e9)
            self._tracer.start_span(f"rank {stage}", start_time=start_ns).end(end_ns)
            start_ns = end_ns

    def close(self) -> None:
        """Send what is left; blocks for as long as that takes, but not for long where nobody takes it."""
        sending = threading.Thread(target=self.provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(_LAST_S)


def open_tracing(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return what makes spans, or None where nobody asked for them, or where they cannot be made, which is logged."""
    if not is_asked_for(environment):
        return None
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _HTTP)
    if exporter != "otlp" or protocol != _HTTP:
        _log.warning("no traces: only OTLP over HTTP is known", exporter=exporter, protocol=protocol)
        return None
    try:
        return Tracing(_provider(environment))
    except ImportError as error:
        _log.warning("no traces: the extra `otel` is not installed", missing=error.name)
        return None


def _provider(environment: Mapping[str, str]) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {SERVICE_NAME: "qin"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def telemetry(tracing: Tracing | None) -> "TelemetryConfig":
    """Return what FastAPI is to do: spans of requests, if any; its metrics and logs are not wanted."""
    off: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
    if tracing is None:
        return off
    return off | {"tracing": True, "operation_spans": False, "tracer_provider": tracing.provider}


def is_asked_for(environment: Mapping[str, str]) -> bool:
    """Return whether an environment says that traces are to be made."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return bool(exporter) or any(environment.get(name) for name in _ENDPOINTS)
