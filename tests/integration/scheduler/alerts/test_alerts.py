"""Alerts in their tables, over the API and at the webhook: opened once, acknowledged, resolved, told, and kept."""

import base64
import hashlib
import hmac
import json
import queue
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr
from sqlmodel import col, select
from starlette.testclient import TestClient

from scheduler.alerts import watch as alerting
from scheduler.alerts.facts import Ground
from shared import clock
from shared.cluster import alerts, nodes
from shared.cluster.alerts import Cause, Changes, Watch
from shared.database.engine import Database
from shared.database.tables import Alert, AlertDelivery, Process, Tick, epoch_now
from shared.errors import ConfigurationError, NotFound
from shared.messaging.progress import RestingRedis
from shared.net import standard_webhooks
from shared.net.outbound import ANYWHERE
from shared.net.standard_webhooks import NotTaken
from shared.settings import Settings, load
from tests.conftest import both_databases
from tests.support import working
from tests.support.jobs import UNCOUNTED, accepted
from tests.support.lost_answers import lost_answers
from tests.support.models import library
from tests.support.stack import wait_for

URL = "/api/v1/dashboard/alerts"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


def cause(rule: str = "worker_lost", subject: str = "here/0", **more: object) -> Cause:
    values: dict[str, object] = {
        "severity": "critical", "title": "A worker is lost", "message": "Nothing was heard from it.",
        "suggested_action": "Look", "action_required": True, "model_id": None,
    }  # fmt: skip
    return Cause(rule, subject, **{**values, **more})  # type: ignore[arg-type]


def open_one(database: Database, *causes: Cause, deliver: bool = False) -> list[Alert]:
    return alerts.apply(database, Changes(opened=causes or (cause(),)), clock.now(), deliver=deliver)


@both_databases
def test_one_open_alert_for_a_rule_and_subject(database: Database) -> None:
    (first,) = open_one(database)
    assert open_one(database) == []
    assert [one.id for one in alerts.open_alerts(database)] == [first.id]
    later = clock.now() + timedelta(minutes=1)
    alerts.apply(database, Changes(still=(cause(message="Still silent"),)), later, deliver=False)
    (row,) = alerts.open_alerts(database)
    assert (row.message, row.seen_at, row.opened_at) == ("Still silent", later, first.opened_at)
    (over,) = alerts.apply(database, Changes(resolved=(("worker_lost", "here/0"),)), later, deliver=False)
    assert (over.id, over.resolved_at) == (first.id, later)
    (again,) = open_one(database)
    assert again.id != first.id
    assert {one.id for one in alerts.history(database)} == {first.id, again.id}
    assert alerts.open_count(database) == 1


@both_databases
def test_what_is_watched_stands_between_two_looks(database: Database) -> None:
    now = clock.now()
    first = Watch("device_too_hot", "here/0", now)
    alerts.apply(database, Changes(watches=(first,)), now, deliver=False)
    assert alerts.known(database).watches == (first,)
    second = Watch("device_too_hot", "here/0", now, gone_since=now)
    alerts.apply(database, Changes(watches=(second,)), now, deliver=False)
    assert alerts.known(database).watches == (second,)
    alerts.apply(database, Changes(), now, deliver=False)
    assert alerts.known(database).watches == ()


def test_acknowledged_once_by_the_first(database: Database) -> None:
    (row,) = open_one(database)
    now = clock.now()
    assert alerts.acknowledge(database, row.id, "Ada", now).acknowledged_by == "Ada"
    again = alerts.acknowledge(database, row.id, "Bob", now + timedelta(minutes=1))
    assert (again.acknowledged_by, again.acknowledged_at) == ("Ada", now)
    alerts.apply(database, Changes(still=(cause(),)), clock.now(), deliver=False)
    assert alerts.open_alerts(database)[0].acknowledged_by == "Ada"
    with pytest.raises(NotFound):
        alerts.acknowledge(database, "00000000-0000-7000-8000-000000000000", None, now)


def test_old_ones_are_forgotten(database: Database) -> None:
    open_one(database, deliver=True)
    now = clock.now()
    alerts.apply(database, Changes(resolved=(("worker_lost", "here/0"),)), now, deliver=False)
    assert alerts.drop_older(database, now + timedelta(days=89)) == 0
    assert alerts.drop_older(database, now + timedelta(days=91)) == 1
    assert alerts.history(database) == []


# --- the API


def test_alerts_are_listed_and_acknowledged(client: TestClient, database: Database) -> None:
    assert client.get(URL).json() == []
    (bad,) = open_one(database)
    (mild,) = open_one(database, cause("queue_age", "", severity="warning", title="Jobs wait", action_required=False))
    assert [one["id"] for one in client.get(URL).json()] == [mild.id, bad.id]
    assert client.get(URL).json()[1] == {
        "id": bad.id, "severity": "critical", "model_id": None, "title": "A worker is lost",
        "message": "Nothing was heard from it.", "timestamp": clock.iso(bad.opened_at), "acknowledged": False,
        "action_required": True, "suggested_action": "Look", "rule": "worker_lost", "subject": "here/0",
        "last_seen": clock.iso(bad.seen_at), "acknowledged_at": None, "acknowledged_by": None, "resolved_at": None,
    }  # fmt: skip
    assert [one["id"] for one in client.get(URL, params={"severity": "warning"}).json()] == [mild.id]
    answer = client.post(f"{URL}/{bad.id}/acknowledge", json={"by": "Ada"})
    assert answer.status_code == 200
    assert (answer.json()["acknowledged"], answer.json()["acknowledged_by"]) == (True, "Ada")
    assert client.post(f"{URL}/{bad.id}/acknowledge").json() == answer.json()
    assert [one["id"] for one in client.get(URL, params={"acknowledged": "false"}).json()] == [mild.id]
    assert [one["id"] for one in client.get(URL, params={"acknowledged": "true"}).json()] == [bad.id]
    alerts.apply(database, Changes(resolved=(("worker_lost", "here/0"),)), clock.now(), deliver=False)
    assert [one["id"] for one in client.get(URL).json()] == [mild.id]
    assert [one["id"] for one in client.get(URL, params={"state": "resolved"}).json()] == [bad.id]
    assert len(client.get(URL, params={"state": "all"}).json()) == 2


@pytest.mark.parametrize(
    ("query", "field"),
    [({"severity": "bad"}, "severity"), ({"acknowledged": "x"}, "acknowledged"), ({"page": "1"}, "page")],
)
def test_a_wrong_query_names_its_field(client: TestClient, query: dict[str, str], field: str) -> None:
    answer = client.get(URL, params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", field]


def test_a_wrong_acknowledgement(client: TestClient, database: Database) -> None:
    (row,) = open_one(database)
    assert client.post(f"{URL}/nothing/acknowledge").status_code == 404
    assert client.post(f"{URL}/{row.id[:-1]}0/acknowledge").status_code in (404, 200)
    for wrong in ({"by": ""}, {"by": "x" * 65}, {"by": 1}, {"who": "Ada"}, {"by": "a\0b"}):
        answer = client.post(f"{URL}/{row.id}/acknowledge", json=wrong)
        assert answer.status_code == 422, wrong
        assert answer.json()["errors"][0]["loc"][1] in ("by", "who")


def test_pages_of_other_origins_change_nothing(client: TestClient, database: Database) -> None:
    (row,) = open_one(database)
    path = f"{URL}/{row.id}/acknowledge"
    for origin in ("https://evil.example", "null", "http://localhost:81", "http://", "http://[::1"):
        answer = client.post(path, headers={"Origin": origin})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), origin
    assert client.get(URL, headers={"Origin": "https://evil.example"}).status_code == 200  # reading: CORS forbids it
    assert client.post(path, headers={"Origin": "http://localhost"}).status_code == 200


def test_origins_that_are_allowed(settings: Settings, make_client: object, database: Database) -> None:
    known = settings.model_copy(update={"allowed_origins": "https://a.example, https://b.example:8443"})
    client = make_client(known)  # type: ignore[operator]
    (row,) = open_one(database)
    path = f"{URL}/{row.id}/acknowledge"
    for origin, status in (("https://a.example", 200), ("https://b.example:8443", 200), ("https://b.example", 403)):
        assert client.post(path, headers={"Origin": origin}).status_code == status


# --- from facts to alerts, and to the webhook


@pytest.fixture
def ground(settings: Settings, database: Database) -> Ground:
    return alerting.ground_of(settings)


def _rules(database: Database) -> dict[str, str]:
    return {alert.rule: alert.subject for alert in alerts.open_alerts(database)}


def test_the_rows_become_alerts_and_alerts_resolve(ground: Ground, database: Database) -> None:
    RestingRedis(ground.settings.redis).ask(lambda client: client.set("wanworks:dispatcher", 1))
    library.node(database, total_gb=100, free_gb=5)
    library.device(database)
    fault = {"path": "vae/model.safetensors", "type": "checksum_mismatch"}
    library.replica(database, state="corrupted", faults=[fault])
    process = Process(node="here", name="beat", state="crash_loop", restarts=9, since=clock.now(), seen_at=0.0)
    nodes.report_processes(database, "here", ["beat"], [process])
    alerting.run_pass(ground, clock.now())
    assert _rules(database) == {
        "model_corrupted": "T2V-A14B on here", "crash_loop": "beat on here", "disk_nearly_full": "here"
    }  # fmt: skip
    (corrupted,) = [one for one in alerts.open_alerts(database) if one.rule == "model_corrupted"]
    assert (corrupted.severity, corrupted.model_id) == ("critical", "T2V-A14B")
    assert "vae/model.safetensors" in corrupted.message
    library.node(database, total_gb=100, free_gb=50)
    library.replica(database)
    nodes.report_processes(database, "here", ["beat"], [])
    alerting.run_pass(ground, clock.now())
    assert _rules(database) == {}
    (over,) = [one for one in alerts.history(database) if one.rule == "crash_loop"]
    assert over.resolved_at is not None


def test_a_silent_job_is_stuck_by_rediss_clock(settings: Settings, database: Database) -> None:
    quick = settings.model_copy(update={"alert_stuck_minutes": 0.001})
    ground = alerting.ground_of(quick)
    job = working.claim(database, accepted(database).id)
    client = RestingRedis(quick.redis)
    client.ask(lambda redis: redis.xadd(f"wanworks:events:{job.id}", {"event": "{}"}, id="1000-1"))
    alerting.run_pass(ground, clock.now())
    assert _rules(database)["job_stuck"] == job.id


def test_one_pass_in_a_period(ground: Ground) -> None:
    hourly = replace(ground, settings=ground.settings.model_copy(update={"alert_seconds": 3600.0}))
    # At most one period begins between the three calls.
    passes = [alerting.run_once(hourly) for _ in range(3)]
    assert passes.count(None) in (1, 2)


def test_a_look_that_dies_holds_up_the_next_for_half_a_minute_at_most(
    ground: Ground, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[float] = []

    def looking(*_: object) -> str:
        with database.read() as session:
            query = select(col(Tick.running_until) - epoch_now()).where(Tick.schedule == alerting.ALERTS)
            held.append(session.exec(query).one())
        return ""

    monkeypatch.setattr(alerting, "run_pass", looking)
    alerting.run_once(ground)
    assert 20 < held[0] <= 30


class Receiver:
    """A webhook's other end."""

    def __init__(self) -> None:
        self.came: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.came.put((dict(self.headers), body))
                self.send_response(receiver.status)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def test_the_webhook_gets_a_failed_message_again(settings: Settings, database: Database, receiver: Receiver) -> None:
    told = settings.model_copy(update={"alert_webhook_url": receiver.url, "alert_webhook_secret": SecretStr(SECRET)})
    ground = alerting.ground_of(told)
    library.node(database, total_gb=100, free_gb=5)
    receiver.status = 503
    alerting.run_pass(ground, clock.now())
    headers, body = receiver.came.get(timeout=5)
    content = json.loads(body)
    assert (content["type"], content["data"]["rule"]) == ("alert.opened", "disk_nearly_full")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"k" * 32, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert alerts.due_deliveries(database, clock.now()) == []
    ((waiting, _),) = alerts.due_deliveries(database, clock.now() + timedelta(seconds=6))
    assert (waiting.tries, waiting.error) == (1, "responded with status 503")
    receiver.status = 204
    with database.write() as session:
        waiting.due_at = clock.now()
        session.merge(waiting)
    alerting.run_pass(ground, clock.now())
    again, _ = receiver.came.get(timeout=5)
    assert again["webhook-id"] == headers["webhook-id"]
    alerting.run_pass(ground, clock.now())
    assert receiver.came.empty()


@both_databases
def test_a_delivery_is_written_once_though_the_answer_is_lost(database: Database) -> None:
    open_one(database, deliver=True)
    ((waiting, _),) = alerts.due_deliveries(database, clock.now())
    with lost_answers():
        alerts.not_delivered(database, waiting, "No", clock.now())
    ((again, _),) = alerts.due_deliveries(database, clock.now())
    assert again.tries == 1
    alerts.delivered(database, waiting, clock.now())  # of the first try, which is settled
    assert len(alerts.due_deliveries(database, clock.now())) == 1
    alerts.delivered(database, again, clock.now())
    assert alerts.due_deliveries(database, clock.now()) == []


@pytest.mark.parametrize("fault", ["address", "unforeseen", "silence"])
def test_no_webhook_keeps_the_rules_from_being_asked(
    settings: Settings, database: Database, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(standard_webhooks, "DELIVERY_SECONDS", 0.2)
    if fault == "unforeseen":
        monkeypatch.setattr(standard_webhooks, "send", fail)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = "http://a..b/" if fault == "address" else f"http://127.0.0.1:{silent.getsockname()[1]}/"
        told = settings.model_copy(
            update={"alert_webhook_url": url, "alert_webhook_secret": SecretStr(SECRET), "alert_seconds": 0.05}
        )
        library.node(database, total_gb=100, free_gb=5)
        watch = alerting.AlertWatch(told, UNCOUNTED)
        watch.start()
        wait_for(lambda: "disk_nearly_full" in _rules(database), 10)
        (alert,) = [one for one in alerts.open_alerts(database) if one.rule == "disk_nearly_full"]
        wait_for(lambda: tries(database, alert.id) == 1, 10)
        library.node(database, total_gb=100, free_gb=50)
        wait_for(lambda: "disk_nearly_full" not in _rules(database), 10)
        assert watch.stop(10)


def tries(database: Database, alert_id: str) -> int:
    with database.read() as session:
        return session.exec(select(AlertDelivery.tries).where(AlertDelivery.alert_id == alert_id)).one()


def test_a_webhook_that_is_gone_is_not_asked_again(database: Database, receiver: Receiver) -> None:
    receiver.status = 410
    with pytest.raises(NotTaken) as gone:
        standard_webhooks.send(receiver.url, SECRET, "msg_1", b"{}", clock.now(), ANYWHERE)
    assert not gone.value.again
    receiver.status = 302  # is not followed
    with pytest.raises(NotTaken, match="responded with status 302"):
        standard_webhooks.send(receiver.url, SECRET, "msg_1", b"{}", clock.now(), ANYWHERE)


def test_the_signature_of_the_specification() -> None:
    """The example that the Standard Webhooks specification gives."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    told = standard_webhooks.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert told == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", [None, "whsec_short", "whsec_!", "c2hvcnQ="])
def test_a_webhook_needs_a_key(secret: str | None) -> None:
    with pytest.raises(ConfigurationError, match="WANWORKS_ALERT_WEBHOOK_SECRET"):
        load(alert_webhook_url="https://hooks.example/x", alert_webhook_secret=secret)
