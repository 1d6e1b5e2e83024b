"""A trace collector for tests: accepts OTLP over HTTP and keeps the spans."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {1: "internal", 2: "server", 5: "consumer"}


@dataclass(frozen=True)
class Seen:
    """A received span. Times are in nanoseconds since 1970."""

    service: str
    resource: Mapping[str, Any]
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    about: Mapping[str, Any]
    events: tuple[tuple[str, int, Mapping[str, Any]], ...]
    error: str | None  # the status's message, where it is an error


class Collector:
    """Serves from its own thread on a free port: ``with Collector() as collector``."""

    def __init__(self, port: int = 0) -> None:
        self._arrived = threading.Condition()
        self._spans: list[Seen] = []
        self.headers: list[Mapping[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                if known:
                    collector._take(body, dict(self.headers))
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, enough: Callable[[list[Seen]], bool], seconds: float = 20.0) -> list[Seen]:
        """Everything that has come, once it is enough."""
        deadline = time.monotonic() + seconds
        with self._arrived:
            while not enough(self._spans):
                left = deadline - time.monotonic()
                assert left > 0, (
                    f"{len(self._spans)} spans came: { {(span.service, span.name) for span in self._spans} }"
                )
                self._arrived.wait(left)
            return list(self._spans)

    def named(self, name: str, count: int = 1, **about: Any) -> list[Seen]:
        """The spans of that name of which that is said (`job_id` is `wanworks.job.id`), once there are that many."""
        wanted = {f"wanworks.{key.replace('_', '.')}": value for key, value in about.items()}

        def fits(span: Seen) -> bool:
            return span.name == name and wanted.items() <= span.about.items()

        found = self.wait(lambda spans: sum(map(fits, spans)) >= count)
        return sorted((span for span in found if fits(span)), key=lambda span: span.began)

    def _take(self, body: bytes, headers: Mapping[str, str]) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            self.headers.append(headers)
            for resources in request.resource_spans:
                resource = _values(resources.resource.attributes)
                for scope in resources.scope_spans:
                    self._spans += [_seen(span, resource) for span in scope.spans]
            self._arrived.notify_all()


def _seen(span: Any, resource: Mapping[str, Any]) -> Seen:
    return Seen(
        service=resource["service.name"],
        resource=resource,
        name=span.name,
        kind=KINDS[span.kind],
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        about=_values(span.attributes),
        events=tuple((event.name, event.time_unix_nano, _values(event.attributes)) for event in span.events),
        error=span.status.message if span.status.code == 2 else None,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
