"""Logging: one JSON object on each line, or readable lines on a terminal.

The request, job and attempt are bound to the context, so that messages need not repeat them. Within a trace each line
also has the trace's id.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from shared.settings import Settings
from shared.telemetry import tracing

_bound: ContextVar[Mapping[str, Any]] = ContextVar("wanworks_log", default={})  # noqa: B039  (never changed in place)


def set_up(settings: Settings, process: str, **about: str | None) -> None:
    """Log to stderr. `about`: fields of every line of this process, such as its device."""
    handler = logging.StreamHandler()
    fields = {"node": settings.node, "process": process, **{name: value for name, value in about.items() if value}}
    handler.setFormatter(_Json(fields) if is_json(settings) else _Readable())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    # The library of worker processes keeps its lines from the root, which would leave them without a format.
    children = logging.getLogger("multiprocessing")
    children.handlers[:] = [handler]
    children.propagate = False
    for name in ("httpx", "httpx2", "httpcore", "httpcore2"):  # they log complete URLs, including secrets
        logging.getLogger(name).setLevel(logging.WARNING)
    # That a message came and was left says nothing about the job in it, which logs its own start and end.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.DEBUG if root.level <= logging.DEBUG else logging.WARNING)
    logging.captureWarnings(True)


def is_json(settings: Settings) -> bool:
    if settings.log_format == "auto":
        return not sys.stderr.isatty()
    return settings.log_format == "json"


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add these fields to all lines that are logged within the block."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


class _Json(logging.Formatter):
    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
            **_about(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Readable(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        about = " ".join(f"{name}={value}" for name, value in _about().items())
        return super().format(record) + (f"  [{about}]" if about else "")


def _about() -> Mapping[str, Any]:
    trace_id = tracing.trace_id()
    return _bound.get() if trace_id is None else {**_bound.get(), "trace_id": trace_id}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
