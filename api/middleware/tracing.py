"""Create a span for each request; a job that it creates continues the trace. Installed only if traces are enabled.

Probes and scrapes get no span, because they would be most of the stored spans.
"""

from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.telemetry import tracing

_LEFT_OUT = frozenset({"/healthz", "/readyz", "/metrics"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})


class Traces:
    """The outermost layer, so that all log lines of a request have its trace id. Names follow OpenTelemetry."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _LEFT_OUT:
            await self.app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        # The path without the query, which may contain a signature.
        about = {"http.request.method": method, "url.path": scope["path"], "url.scheme": scope.get("scheme", "http")}
        span = tracing.begin(method, about, kind="server", parent=_traceparent(scope))

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                status: int = message["status"]
                span.note({"http.response.status_code": status})
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    span.failed(str(status), HTTPStatus(status).phrase)
            await send(message)

        try:
            with span.current():
                await self.app(scope, receive, observe)
        finally:
            if "wanworks.route" in scope:
                span.rename(f"{method} {scope['wanworks.route']}")
                span.note({"http.route": scope["wanworks.route"]})
            if "wanworks.request_id" in scope:
                span.note({"wanworks.request.id": scope["wanworks.request_id"]})
            span.end()


def _traceparent(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
