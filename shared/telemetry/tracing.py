"""Traces: one for each request, going on in the job that it asked for, to the end of its last attempt.

Off unless WANWORKS_OTLP_ENDPOINT is set, and then nothing of OpenTelemetry is imported and a span costs a comparison.
What a span says is which job, model, device, phase and error: never a prompt, an address, a key, or a query string.
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
    """Makes this process tell of itself as the service ``wanworks-<process>``. Each child has to do it for itself."""
    global _tracer
    if settings.otlp_endpoint is not None and _tracer is None:
        for name in shared.KEPT_FROM_REDIS:
            if sys.modules.get(name, shared) is None:
                del sys.modules[name]
        from shared.telemetry.otlp import OtlpTracer

        _tracer = OtlpTracer(settings, process)


def close() -> None:
    """Sends what is left, for two seconds at most."""
    global _tracer
    if _tracer is not None:
        tracer, _tracer = _tracer, None
        tracer.close(_CLOSE_SECONDS)


def begin(
    name: str,
    attributes: Attributes,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    began: float | None = None,
    keys: tuple[str, str | None] | None = None,
) -> Span:
    """A span under the one that `parent` names (a W3C traceparent), else one of a trace that begins here.

    `began` is in seconds since 1970; now where it is not given. `keys` makes ids that others come to as well: all
    without a parent under the first key share a trace, and the second one is the span's own.
    """
    return _UNRECORDED if _tracer is None else _tracer.begin(name, attributes, kind, parent, began, keys)


def here() -> str | None:
    """The traceparent of the span that is current; None where there is none."""
    return None if _tracer is None else _tracer.here()


def trace_id() -> str | None:
    """Of the trace that is current, in 32 hexadecimal digits."""
    found = here()
    return None if found is None else found.split("-")[1]
