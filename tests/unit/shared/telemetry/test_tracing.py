"""Traces: nothing at all where they are off; where they are on, nobody ever waits for the collector."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr, ValidationError

from shared.settings import Settings
from shared.telemetry import logs, tracing
from tests.conftest import free_port
from tests.support.servers.collector import Collector


@pytest.fixture(autouse=True)
def _off_again() -> Iterator[None]:
    yield
    tracing.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector
        tracing.close()


def on(url: str, **more: object) -> Settings:
    settings = Settings(node="here", otlp_endpoint=url, **more)  # type: ignore[arg-type]
    tracing.set_up(settings, "web")
    return settings


def test_where_it_is_off_nothing_of_it_is_imported() -> None:
    code = (
        "import sys\n"
        "from shared import settings\n"
        "from shared.telemetry import tracing\n"
        "from api.app import create_app\n"
        "import workers.attempts.runner, workers.processes.main_process, shared.jobs.attempt_spans\n"
        "loaded = settings.load()\n"
        "tracing.set_up(loaded, 'web')\n"
        "create_app(loaded)\n"
        "with tracing.begin('x', {}, keys=('a', 'b')).current():\n"
        "    assert tracing.here() is tracing.trace_id() is None\n"
        "there = [name for name, module in sys.modules.items() if module is not None]\n"
        "sys.exit(', '.join(name for name in there if name.startswith(('opentelemetry', 'google.protobuf'))) or 0)\n"
    )
    environment = {"PATH": os.environ["PATH"], "WANWORKS_REDIS_URL": "redis://127.0.0.1:1/0"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_span_says_who_when_and_under_what(collector: Collector) -> None:
    settings = on(collector.url + "/", otlp_headers=SecretStr("x-key=a%20b,other=c"))
    began = time.time() - 5
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    span = tracing.begin("work", {"wanworks.attempt": 2}, kind="consumer", parent=parent, began=began)
    with span.current():
        assert (tracing.here() or "").startswith("00-0af7651916cd43dd8448eb211c80319c-")
        inner = tracing.begin("inner", {}, parent=tracing.here())
    span.child("part").end()
    span.event("said", {"wanworks.step": 1})
    span.failed("out_of_memory", "Too big")
    inner.end()
    span.end()
    (work,) = collector.named("work", attempt=2)
    assert (work.trace, work.parent, work.kind) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "consumer")
    assert abs(work.began / 1e9 - began) < 1e-3
    assert (work.error, work.about["error.type"]) == ("out_of_memory", "out_of_memory")
    assert [name for name, _, _ in work.events] == ["said", "exception"]
    assert work.events[1][2] == {"exception.type": "out_of_memory", "exception.message": "Too big"}
    assert {span.parent for name in ("inner", "part") for span in collector.named(name)} == {work.id}
    said = {"service.name": "wanworks-web", "wanworks.node": settings.node, "host.name": socket.gethostname()}
    assert said.items() <= work.resource.items()
    assert {"x-key": "a b", "other": "c"}.items() <= {
        name.lower(): v for name, v in collector.headers[0].items()
    }.items()


def test_ids_that_follow_from_a_key_are_the_same_for_everybody(collector: Collector) -> None:
    on(collector.url)
    for _ in range(2):
        tracing.begin("attempt", {}, keys=("job", "job/1")).end()
        tracing.begin("queue", {}, keys=("job", None)).end()
    one, other = collector.named("attempt", 2)
    queues = collector.named("queue", 2)
    assert (one.id, one.trace) == (other.id, other.trace)
    assert {span.trace for span in queues} == {one.trace}
    assert len({span.id for span in (one, *queues)}) == 3


def test_spans_that_have_not_ended_are_not_sent(collector: Collector) -> None:
    on(collector.url)
    tracing.begin("lost", {})
    tracing.begin("kept", {}).end()
    tracing.close()
    assert [span.name for span in collector.wait(lambda spans: bool(spans))] == ["kept"]


def test_sampling(collector: Collector) -> None:
    on(collector.url, trace_sample_ratio=0.0)
    tracing.begin("dropped", {}).end()
    with (dropped := tracing.begin("dropped", {})).current():
        assert int((tracing.here() or "").rpartition("-")[2], 16) & 1 == 0
        tracing.begin("dropped", {}, parent=tracing.here()).end()  # what goes on from it is dropped as well
    dropped.end()
    tracing.begin("asked for", {}, parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").end()
    tracing.close()
    assert [span.name for span in collector.wait(lambda spans: bool(spans))] == ["asked for"]
    on(collector.url, trace_sample_ratio=0.25)
    for place in range(1000):
        tracing.begin("some", {}, keys=(f"job {place}", None)).end()
    tracing.close()
    some = collector.wait(lambda spans: len(spans) > 1)
    assert 180 < len(some) - 1 < 320


def test_a_bad_traceparent_begins_a_trace_of_its_own(collector: Collector) -> None:
    on(collector.url)
    tracing.begin("work", {}, parent="00-nonsense").end()
    (work,) = collector.named("work")
    assert work.parent == ""


def test_an_unreachable_collector_is_logged_once_and_delays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wanworks.tracing")
    port = free_port()
    on(f"http://127.0.0.1:{port}", otlp_headers=SecretStr("key=verysecret"))
    began = time.monotonic()
    for _ in range(6000):  # more than the queue holds
        tracing.begin("work", {}).end()
    assert time.monotonic() - began < 3
    deadline = time.monotonic() + 10
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.05)
    with Collector(port) as collector:
        deadline = time.monotonic() + 20
        while not any("again" in record.message for record in caplog.records):
            assert time.monotonic() < deadline
            tracing.begin("after", {}).end()
            time.sleep(0.2)
        assert collector.named("after")
        tracing.close()
    levels = [(record.name, record.levelno) for record in caplog.records if record.levelno >= logging.WARNING]
    assert levels == [("wanworks.tracing", logging.WARNING)]
    assert "verysecret" not in caplog.text


def test_a_collector_that_says_nothing_holds_up_no_end() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        on(f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracing.begin("work", {}).end()
        began = time.monotonic()
        tracing.close()
        assert time.monotonic() - began < 3


def test_log_lines_name_their_trace(collector: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        settings = on(collector.url, log_format="json")
        logs.set_up(settings, "web")
        with (span := tracing.begin("work", {})).current():
            trace_id = tracing.trace_id()
            logging.getLogger("wanworks.test").info("Within")
        logging.getLogger("wanworks.test").info("Without")
        span.end()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    within, without = capsys.readouterr().err.splitlines()
    assert f'"trace_id": "{trace_id}"' in within
    assert len(trace_id or "") == 32
    assert "trace_id" not in without


@pytest.mark.parametrize("wrong", ["novalue", "a=b,,c=d", "=x"])
def test_headers_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="NAME=VALUE"):
        Settings(otlp_headers=SecretStr(wrong))
