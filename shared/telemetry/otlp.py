"""Spans by OpenTelemetry, sent by OTLP over HTTP. Imported only if WANWORKS_OTLP_ENDPOINT is set.

A slow or unavailable collector loses spans but never delays work: a separate thread sends them from a bounded queue.
"""

import hashlib
import importlib.metadata
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers
from requests.adapters import HTTPAdapter

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.telemetry.span import Attributes, Kind, Span
from wanworks.net import proxies

log = logging.getLogger("wanworks.tracing")

_PATH = "/v1/traces"
_QUEUE_LENGTH = 2048
_BATCH = 256
_SEND_EVERY_SECONDS = 1.0
_TRY_SECONDS = 5.0
_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER}
_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracer:
    """The spans of one process. `settings.otlp_endpoint` must be set."""

    def __init__(self, settings: Settings, process: str) -> None:
        assert settings.otlp_endpoint is not None
        logging.getLogger("opentelemetry").setLevel(
            logging.CRITICAL
        )  # `_LoggingExporter` logs an unavailable collector once
        version = importlib.metadata.version("wanworks")
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
            resource=Resource.create(
                {
                    "service.name": f"wanworks-{process}",
                    "service.version": version,
                    "service.instance.id": f"{settings.node}/{process}/{os.getpid()}",
                    "host.name": socket.gethostname(),
                    "process.pid": os.getpid(),
                    "wanworks.node": settings.node,
                }
            ),
            id_generator=self._ids,
            shutdown_on_exit=False,  # `close` does it, with a time limit
        )
        endpoint = settings.otlp_endpoint.rstrip("/")
        headers = settings.otlp_headers.get_secret_value() if settings.otlp_headers is not None else ""
        endpoint = endpoint if endpoint.endswith(_PATH) else endpoint + _PATH
        try:
            proxies.http_proxy_for(endpoint, "traces")
        except ConfigurationError as error:
            log.warning("traces cannot be sent: %s", error)
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            headers=parse_env_headers(headers, liberal=True),
            timeout=_TRY_SECONDS,
            session=_session(),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _LoggingExporter(exporter),
                max_queue_size=_QUEUE_LENGTH,
                max_export_batch_size=_BATCH,
                schedule_delay_millis=_SEND_EVERY_SECONDS * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("wanworks", version)

    def begin(
        self,
        name: str,
        attributes: Attributes,
        kind: Kind,
        parent: str | None,
        began: float | None,
        keys: tuple[str, str | None] | None,
    ) -> Span:
        context = _PROPAGATOR.extract({"traceparent": parent}, Context()) if parent is not None else Context()
        with self._ids.made_of(keys):
            span = self._tracer.start_span(name, context, _KINDS[kind], attributes, start_time=_nanoseconds(began))
        return _Recorded(self._tracer, span)

    def here(self) -> str | None:
        found = trace.get_current_span().get_span_context()
        if not found.is_valid:
            return None
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"

    def send_now(self) -> None:
        threading.Thread(target=self._provider.force_flush, name="spans", daemon=True).start()

    def close(self, seconds: float) -> None:
        sending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(seconds)


class _Recorded(Span):
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes, at: float | None = None) -> None:
        self._span.add_event(name, attributes, _nanoseconds(at))

    def failed(self, code: str, message: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, code))
        self._span.set_attribute("error.type", code)
        self._span.add_event("exception", {"exception.type": code, "exception.message": message})

    def child(self, name: str) -> Span:
        under = trace.set_span_in_context(self._span, Context())
        return _Recorded(self._tracer, self._tracer.start_span(name, under))

    def end(self, at: float | None = None) -> None:
        self._span.end(_nanoseconds(at))

    @contextmanager
    def current(self) -> Iterator[None]:
        # The span's owner reports errors, because an exception's text may contain what traces must not.
        with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield


class _Ids(RandomIdGenerator):
    """Random ids, or ids derived from keys, so that several processes find the same ids."""

    def __init__(self) -> None:
        self._thread = threading.local()

    @contextmanager
    def made_of(self, keys: tuple[str, str | None] | None) -> Iterator[None]:
        self._thread.keys = keys
        try:
            yield
        finally:
            self._thread.keys = None

    def generate_trace_id(self) -> int:
        keys = getattr(self._thread, "keys", None)
        return _digest(keys[0], 16) if keys is not None else super().generate_trace_id()

    def generate_span_id(self) -> int:
        keys = getattr(self._thread, "keys", None)
        return _digest(keys[1], 8) if keys is not None and keys[1] is not None else super().generate_span_id()


class _Adapter(HTTPAdapter):  # type: ignore[misc]
    """Uses the environment's proxies by the same rules as the rest of wanworks, instead of the library's."""

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        proxy = proxies.http_proxy_for(request.url, "traces")
        named = {urlsplit(request.url).scheme: proxy} if proxy is not None else {}
        return super().send(request, *args, **{**options, "proxies": named})


def _session() -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


class _LoggingExporter(SpanExporter):
    """An exporter that logs when spans stop reaching the collector, and when they reach it again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._arrives = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result, reason = SpanExportResult.FAILURE, "it refused them or did not respond"
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # what its HTTP library raises; the sending thread must survive it
            reason = type(error).__name__
        arrives = result is SpanExportResult.SUCCESS
        if self._arrives and not arrives:
            log.warning("traces do not reach the collector (%s): they are dropped until it responds", reason)
        elif arrives and not self._arrives:
            log.info("traces reach the collector again")
        self._arrives = arrives
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _digest(key: str, length: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:length])


def _nanoseconds(seconds: float | None) -> int:
    return time.time_ns() if seconds is None else int(seconds * 1e9)
