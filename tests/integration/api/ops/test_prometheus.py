"""`/metrics`: valid for Prometheus, equal from every web process, and sufficient for the board and its rules."""

import json
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from starlette.testclient import TestClient

from scheduler.alerts.fact_types import Facts
from scheduler.alerts.facts import gather
from scheduler.alerts.watch import ground_of
from shared import clock
from shared.database.engine import Database
from shared.database.tables import Device
from shared.insight import samples
from shared.insight.samples import Doing, Reading
from shared.jobs import attempts
from shared.jobs.attempts import Failure
from shared.jobs.claims import pauses
from shared.jobs.claims.pauses import Scope
from shared.messaging import ticks
from shared.messaging.progress import RestingRedis
from shared.settings import Settings
from shared.telemetry import loop_reports, metrics
from shared.telemetry.metrics import METERS, Meters, count_end, families
from tests.conftest import RedisServer, both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.integration.scheduler.alerts.test_alerts import open_one
from tests.support import working
from tests.support.jobs import accepted
from tests.support.models import library
from tests.support.places import ROOT
from tests.support.servers.late_redis import LateRedis

DOCKER = ROOT / "docker"
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: TestClient) -> Values:
    """Scrape the values by sample name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Values = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(found: Values, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


@both_databases
def test_gauges(client: TestClient, database: Database, settings: Settings) -> None:
    library.node(database, total_gb=1000, free_gb=400)
    library.device(database, "T2V-A14B")
    library.replica(database)
    reading = Reading(73.0, 40_000.0, 80_000.0, 61.0, 350.0)
    samples.record(database, "here/0", "cuda", reading, Doing(None, None, None), clock.now())
    accepted(database)
    running = working.claim(database, accepted(database).id)
    open_one(database)
    loop_reports.record(database, "dispatcher@here", "here", "dispatcher", 2.0)
    found = scrape(client)
    device = {"node": "here", "device": "0", "uuid": "GPU-here-0"}
    model = {"model": "T2V-A14B"}
    assert value(found, "wanworks_jobs", type="generation", state="queued", **model) == 1
    assert value(found, "wanworks_jobs", type="generation", state="running", **model) == 1
    assert value(found, "wanworks_queue_depth", priority="normal", **model) == 1
    assert (value(found, "wanworks_queue_oldest_seconds", priority="normal", **model) or -1) >= 0
    assert value(found, "wanworks_device_up", **device) == 1
    assert value(found, "wanworks_device_busy", **device) == float(running.device_key == "here/0")
    assert value(found, "wanworks_device_utilization_ratio", **device) == 0.73
    assert value(found, "wanworks_device_memory_used_bytes", **device) == 40e9
    assert value(found, "wanworks_device_memory_total_bytes", **device) == 80e9
    assert value(found, "wanworks_device_temperature_celsius", **device) == 61
    assert value(found, "wanworks_device_power_watts", **device) == 350
    assert value(found, "wanworks_node_disk_free_bytes", node="here") == 400e9
    assert value(found, "wanworks_replica_ready", node="here", **model) == 1
    assert value(found, "wanworks_alerts_open", severity="critical") == 1
    assert (value(found, "wanworks_redis_up"), value(found, "wanworks_dispatcher_up")) == (1, 1)


def test_outdated_readings_are_left_out(client: TestClient, database: Database) -> None:
    """The last sample of an offline device is not current, and a download has no sizes before its list of files."""
    library.node(database)
    library.device(database, "T2V-A14B")
    reading = Reading(73.0, 40_000.0, 80_000.0, 61.0, 350.0)
    samples.record(database, "here/0", "cuda", reading, Doing(None, None, None), clock.now())
    library.start(database, library.download(database))
    with database.write() as session:
        session.connection().execute(update(Device).values(seen_at=0.0))
    found = scrape(client)
    device = {"node": "here", "device": "0", "uuid": "GPU-here-0"}
    assert (value(found, "wanworks_device_up", **device), value(found, "wanworks_device_busy", **device)) == (0, 0)
    for name in ("utilization_ratio", "memory_used_bytes", "temperature_celsius", "power_watts"):
        assert value(found, f"wanworks_device_{name}", **device) is None
    assert value(found, "wanworks_download_left_bytes", node="here", model="T2V-A14B") is None
    assert value(found, "wanworks_download_left_bytes", node="here", model="TI2V-5B") == 0


def test_counters(client: TestClient, database: Database, settings: Settings) -> None:
    counted = Meters(RestingRedis(settings.redis))
    done = working.finish(database, working.claim(database, accepted(database).id), [])
    failing = working.claim(database, accepted(database).id)
    failed = attempts.fail(database, failing.id, failing.attempt, Failure("bad_input", "No", retryable=False))
    for job in (done, failed):
        count_end(counted, job)
    counted.flush()
    found = scrape(client)
    model = {"model": "T2V-A14B"}
    for outcome in ("succeeded", "failed"):
        ended = value(found, "wanworks_jobs_ended_total", type="generation", outcome=outcome, **model)
        assert ended == 1
    assert value(found, "wanworks_job_seconds_count", type="generation", **model) == 1
    for phase, seconds in (done.result or {})["timings"].items():
        assert value(found, "wanworks_phase_seconds_sum", phase=phase, **model) == pytest.approx(seconds)
    assert value(found, "wanworks_step_seconds_count", **model) == 1


def test_requests_are_counted_by_route(client: TestClient) -> None:
    client.get("/healthz")
    client.get("/api/v1/jobs/00000000-0000-7000-8000-000000000000")
    client.get("/api/v1/jobs/00000000-0000-7000-8000-000000000001")
    client.get("/nothing/there")
    context_meters(client).flush()
    found = scrape(client)
    by_route = {"method": "GET", "route": "/api/v1/jobs/{id}", "status": "404"}
    assert value(found, "wanworks_http_request_seconds_count", **by_route) == 2
    assert value(found, "wanworks_http_request_seconds_count", method="GET", route="/healthz", status="200") == 1
    assert value(found, "wanworks_http_request_seconds_count", method="", route="", status="404") == 1


def context_meters(client: TestClient) -> Meters:
    found: Meters = client.app_state["context"].meters
    return found


def test_two_web_processes_return_the_same(
    settings: Settings, database: Database, make_client: Callable[[Settings], TestClient]
) -> None:
    one, other = make_client(settings), make_client(settings)
    one.post(URL, json=GOOD)
    counted = Meters(RestingRedis(settings.redis))
    counted.count(metrics.TAKEOVERS)
    counted.flush()
    still = {"wanworks_queue_oldest_seconds"}
    answers = [
        {key: found for key, found in scrape(client).items() if key[0] not in still and "http" not in key[0]}
        for client in (one, other)
    ]
    assert answers[0] == answers[1]
    assert value(answers[0], "wanworks_lease_takeovers_total") == 1


def test_without_redis(settings: Settings, make_client: Callable[[Settings], TestClient], database: Database) -> None:
    found = scrape(make_client(settings.model_copy(update={"redis_url": None})))
    assert value(found, "wanworks_redis_up") == 0
    assert value(found, "wanworks_dispatcher_up") == 0


def _with_redis(settings: Settings, url: str) -> Settings:
    return Settings(**{**settings.model_dump(), "redis_url": url})


def test_with_a_slow_redis_no_metric_is_missing(
    settings: Settings, database: Database, redis_server: RedisServer, make_client: Callable[[Settings], TestClient]
) -> None:
    counted = Meters(RestingRedis(redis_server.url, timeout=5.0))
    counted.count(metrics.TAKEOVERS)
    counted.observe(metrics.PASS_SECONDS, seconds=0.1)
    counted.flush()
    loop_reports.record(database, "dispatcher@here", "here", "dispatcher", 2.0)
    with LateRedis(redis_server, 0.5) as late:
        client = make_client(_with_redis(settings, late.url))
        with ThreadPoolExecutor(2) as pool:  # a second, concurrent scrape
            answers = list(pool.map(lambda _: scrape(client), range(2)))
        assert "redis_unavailable" not in client.get("/readyz").json()["reasons"]
    for found in answers:
        assert value(found, "wanworks_redis_up") == 1
        assert value(found, "wanworks_dispatcher_up") == 1
        assert value(found, "wanworks_lease_takeovers_total") == 1
        assert value(found, f"{metrics.PASS_SECONDS.name}_count") == 1


def test_with_a_hanging_redis_its_state_is_unknown(
    settings: Settings, database: Database, redis_server: RedisServer, make_client: Callable[[Settings], TestClient]
) -> None:
    client = make_client(_with_redis(settings, redis_server.url))
    loop_reports.record(database, "dispatcher@here", "here", "dispatcher", 2.0)
    assert value(scrape(client), "wanworks_redis_up") == 1
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        found = scrape(client)
        assert time.monotonic() - began < 5
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert value(found, "wanworks_redis_up") is None
    assert value(found, "wanworks_dispatcher_up") == 1, "read from its rows"
    assert value(found, "wanworks_jobs", type="cleanup", model="", state="queued") == 0


def test_without_redis_it_is_down_and_the_dispatcher_is_read_from_rows(
    settings: Settings, database: Database, redis_server: RedisServer, make_client: Callable[[Settings], TestClient]
) -> None:
    client = make_client(_with_redis(settings, redis_server.url))
    redis_server.kill()
    found = scrape(client)
    assert (value(found, "wanworks_redis_up"), value(found, "wanworks_dispatcher_up")) == (0, 0)
    loop_reports.record(database, "dispatcher@here", "here", "dispatcher", 2.0)
    assert value(scrape(client), "wanworks_dispatcher_up") == 1


def test_the_alerts_distinguish_slow_from_unreachable(
    settings: Settings, database: Database, redis_server: RedisServer
) -> None:
    def facts(url: str) -> Facts:
        return gather(ground_of(_with_redis(settings, url)), clock.now())

    with LateRedis(redis_server, 0.5) as late:
        found = facts(late.url)
        assert (found.redis_away, found.dispatcher_silent) == (False, True)
        loop_reports.record(database, "dispatcher@here", "here", "dispatcher", 2.0)
        assert facts(late.url).dispatcher_silent is False
    loop_reports.forget_process(database, "dispatcher@here")
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    assert facts(redis_server.url).redis_away is False, "it may only be slow"
    redis_server.kill()
    found = facts(redis_server.url)
    assert (found.redis_away, found.dispatcher_silent) == (True, None), "without Redis no dispatcher can lead"


def test_a_process_that_has_just_started_has_missed_no_tick(settings: Settings, database: Database) -> None:
    an_hour_ago = clock.now().timestamp() - 3600
    assert ticks.once(database, "retention", 60.0, an_hour_ago, lambda _: "done") == "done"
    assert gather(ground_of(settings), clock.now()).beat_silent_seconds < 60


def test_pauses_and_jobs_that_may_not_start_are_counted(client: TestClient, database: Database) -> None:
    pauses.pause(database, Scope("model_id", "T2V-A14B"), by="admin", running="finish")
    accepted(database)
    accepted(database, start_after=clock.now().timestamp() + 1000)
    found = scrape(client)
    assert [value(found, "wanworks_paused", scope=scope) for scope in ("model_id", "everything")] == [1, 0]
    reasons = ("pause", "start_time", "window")
    assert [value(found, "wanworks_jobs_held", reason=reason) for reason in reasons] == [1, 1, 0]
    of_model = {"type": "generation", "model": "T2V-A14B"}
    assert [value(found, "wanworks_jobs", state=state, **of_model) for state in ("queued", "held")] == [1, 1]


def test_an_empty_queue_is_reported_as_zero(client: TestClient, database: Database) -> None:
    library.node(database)
    found = scrape(client)
    for model_id in ("T2V-A14B", "I2V-A14B", "TI2V-5B"):
        for priority in ("low", "normal", "high", "critical"):
            labels = {"model": model_id, "priority": priority}
            for name in ("depth", "waiting_for_model", "oldest_seconds"):
                assert value(found, f"wanworks_queue_{name}", **labels) == 0, (name, labels)
        for type, state in (("generation", "queued"), ("generation", "running"), ("download", "paused")):
            assert value(found, "wanworks_jobs", type=type, model=model_id, state=state) == 0
        assert value(found, "wanworks_download_left_bytes", node="here", model=model_id) == 0


def test_counts_are_kept_while_redis_is_unreachable(redis_server: RedisServer) -> None:
    counted = Meters(RestingRedis(redis_server.url, timeout=1.0, rest=0.0))
    counted.count(metrics.TAKEOVERS)
    redis_server.kill()
    counted.flush()
    redis_server.start()
    counted.count(metrics.TAKEOVERS)
    counted.flush()
    (family,) = [one for one in metrics.read(RestingRedis(redis_server.url)) or () if one.meter is metrics.TAKEOVERS]
    assert family.totals == {(): 2.0}


def test_buckets_are_cumulated() -> None:
    name = metrics.PASS_SECONDS.name
    fields = {json.dumps([name, "0.01"]): 2.0, json.dumps([name, "+Inf"]): 1.0, json.dumps([name, "sum"]): 20.1}
    (family,) = [one for one in families(fields) if one.meter is metrics.PASS_SECONDS]
    buckets = dict(family.buckets[()])
    assert (buckets["0.005"], buckets["0.01"], buckets["10.0"], buckets["+Inf"]) == (0.0, 2.0, 2.0, 3.0)
    assert family.sums == {(): 20.1}


def test_counters_of_another_version_are_left_out() -> None:
    for field in (["wanworks_of_tomorrow", "x", "total"], [metrics.FENCED.name, "node", "a new label", "total"]):
        assert all(not family.totals for family in families({json.dumps(field): 1.0}))


def _names(client: TestClient) -> set[str]:
    """Return the names of all possible samples."""
    names = {match[1] for match in re.finditer(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE)}
    for meter in METERS.values():
        names |= (
            {f"{meter.name}_total"}
            if meter.kind == "counter"
            else {f"{meter.name}_{part}" for part in ("bucket", "sum", "count")}
        )
    return names


def _expressions() -> list[tuple[str, str]]:
    board: dict[str, Any] = json.loads((DOCKER / "grafana" / "wanworks.json").read_text())
    found = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((DOCKER / "prometheus" / "rules.yaml").read_text())
    found += [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    return found


def test_the_board_and_the_rules_use_existing_metrics(client: TestClient) -> None:
    names = _names(client)
    expressions = _expressions()
    assert len(expressions) > 25
    for title, expression in expressions:
        asked = set(re.findall(r"\bwanworks_\w+", expression))
        assert asked <= names, (title, asked - names)
        assert expression.count("(") == expression.count(")"), title


def test_the_board_uses_existing_labels() -> None:
    labels = {meter.name: set(meter.labels) for meter in METERS.values()}
    for title, expression in _expressions():
        for name, inside in re.findall(r"\b(wanworks_\w+)\{([^}]*)\}", expression):
            base = re.sub(r"_(total|bucket|sum|count)$", "", name)
            if base in labels:
                assert set(re.findall(r"(\w+)=", inside)) <= labels[base] | {"le"}, title
