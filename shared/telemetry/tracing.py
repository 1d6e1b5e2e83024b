"""Traces: one for each request. It continues in the submitted job until the end of its last attempt.

Without WANWORKS_OTLP_ENDPOINT tracing is off, nothing of OpenTelemetry is imported, and a span costs a comparison.
Spans name the job, model, device, phase and error, but never a prompt, an address, a key or a query string.
"""

import sys
from typing import TYPE_CHECKING

import shared
from shared.settings import Settings
from shared.telemetry.span import Attributes, Kind, Span

if TYPE_CHECKING:
    from shared.telemetry.otlp import OtlpTracer

_CLOSE_SECONDS = 2.0
_UNRECORDED = Span()
_tracer: "OtlpTracer | None" = None


def set_up(settings: Settings, process: str) -> None:
    """Start tracing in this process, as the service ``wanworks-<process>``. Each child process must call it."""
    global _tracer
    if settings.otlp_endpoint is not None and _tracer is None:
        for name in shared.KEPT_FROM_REDIS:
            if sys.modules.get(name, shared) is None:
                del sys.modules[name]
        from shared.telemetry.otlp import OtlpTracer

        _tracer = OtlpTracer(settings, process)


def close() -> None:
    """Send the remaining spans, for at most two seconds."""
    global _tracer
    if _tracer is not None:
        tracer, _tracer = _tracer, None
        tracer.close(_CLOSE_SECONDS)


def send_now() -> None:
    """Begin to send what has been recorded, and do not wait: this process may be killed soon."""
    if _tracer is not None:
        _tracer.send_now()


def begin(
    name: str,
    attributes: Attributes,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    began: float | None = None,
    keys: tuple[str, str | None] | None = None,
) -> Span:
    """Return a span below `parent` (a W3C traceparent), or the first span of a new trace.

    `began`: seconds since 1970, by default now. `keys`: ids are derived from these, so that several processes find the
    same ids. Spans without a parent and with an equal first key share a trace; the second key gives the span's id.
    """
    return _UNRECORDED if _tracer is None else _tracer.begin(name, attributes, kind, parent, began, keys)


def here() -> str | None:
    """Return the traceparent of the current span; None if there is none."""
    return None if _tracer is None else _tracer.here()


def trace_id() -> str | None:
    """Return the id of the current trace, as 32 hexadecimal digits; None if there is none."""
    found = here()
    return None if found is None else found.split("-")[1]
