"""Webhooks of jobs: every end is told, once taken it is not told again, and nobody is made to ask what is private."""

import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared import attempts, bells, clock, jobs, standard_webhooks, webhooks
from shared.attempts import Failure
from shared.database import Database
from shared.meters import Meters
from shared.nodes import webhook_secret
from shared.outbound import Allowed, ForbiddenAddress, check_url, judge
from shared.progress import RestingRedis
from shared.settings import Settings, load
from shared.standard_webhooks import NotTaken
from shared.tables import Job, WebhookMessage
from tests import working
from tests.conftest import both_databases
from tests.integration.test_alerts import SECRET, Receiver
from tests.integration.test_api_generation import GOOD, URL
from tests.jobs import accepted
from tests.stack import wait_for
from workers.webhook_sender import WebhookSender

HOOK = "https://hooks.example/x?token=secret"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def messages(database: Database) -> list[WebhookMessage]:
    return webhooks.page(database, limit=100, after=None).messages


# --- made with the end of the job


def _succeed(database: Database, job: Job) -> None:
    working.finish(database, working.claim(database, job.id), [])


def _fail(database: Database, job: Job) -> None:
    running = working.claim(database, job.id)
    attempts.fail(database, job.id, running.attempt, Failure("bad_input", "No", retryable=False))


def _cancel_waiting(database: Database, job: Job) -> None:
    jobs.request_cancel(database, job.id)


def _cancel_running(database: Database, job: Job) -> None:
    running = working.claim(database, job.id)
    attempts.cancelled(database, job.id, running.attempt)


def _give_up(database: Database, job: Job) -> None:
    assert bells.give_up(database, job.id, Failure("no_device", "None", retryable=True)) is not None


def _crash_for_good(database: Database, job: Job) -> None:
    running = working.claim(database, job.id)
    attempts.crashed(database, job.id, running.attempt, "It died", 0.0)


@both_databases
@pytest.mark.parametrize(
    ("end", "type"),
    [
        (_succeed, "job.succeeded"),
        (_fail, "job.failed"),
        (_cancel_waiting, "job.cancelled"),
        (_cancel_running, "job.cancelled"),
        (_give_up, "job.failed"),
        (_crash_for_good, "job.failed"),
    ],
)
def test_every_end_is_to_be_told(database: Database, end: Callable[[Database, Job], None], type: str) -> None:
    job = accepted(database, webhook_url=HOOK, max_failures=1, metadata={"order": "7"})
    silent = accepted(database, max_failures=1)
    for one in (job, silent):
        end(database, one)
    (message,) = messages(database)
    assert (message.job_id, message.type, message.state, message.url) == (job.id, type, "waiting", HOOK)
    assert message.data["status"] == type.removeprefix("job.")
    assert (message.data["id"], message.data["metadata"]) == (job.id, {"order": "7"})
    assert message.data["finished_at"]
    assert "a cat" not in json.dumps(message.data), "prompts are the owner's own"


def test_a_stop_is_no_end(database: Database) -> None:
    running = working.claim(database, accepted(database, webhook_url=HOOK).id)
    attempts.give_back(database, running.id, running.attempt)
    assert messages(database) == []


def test_a_fenced_attempt_tells_nothing(database: Database) -> None:
    running = working.claim(database, accepted(database, webhook_url=HOOK).id)
    attempts.crashed(database, running.id, running.attempt, "It died", 0.0)
    assert attempts.crashed(database, running.id, running.attempt, "Again", 0.0) is None
    assert messages(database) == []


@both_databases
def test_a_message_is_taken_by_one(database: Database) -> None:
    for _ in range(3):
        _cancel_waiting(database, accepted(database, webhook_url=HOOK))
    first = webhooks.take_due(database, 60.0, limit=2)
    second = webhooks.take_due(database, 60.0)
    assert (len(first), len(second)) == (2, 1)
    assert {one.id for one in first}.isdisjoint(one.id for one in second)
    assert webhooks.take_due(database, 60.0) == []


@both_databases
def test_only_the_newest_progress_waits_and_none_after_the_end(database: Database) -> None:
    running = working.claim(database, accepted(database, webhook_url=HOOK, webhook_progress=True).id)
    for percent in (10.0, 20.0):
        webhooks.add_progress(database, running, f"msg_{jobs.new_id()}", {"percent": percent})
    (message,) = messages(database)
    assert (message.type, message.data["progress"]) == ("job.progress", {"percent": 20.0})
    working.finish(database, running, [])
    assert [one.type for one in messages(database)] == ["job.succeeded"]


def test_what_waits_outlives_its_job(database: Database) -> None:
    job = accepted(database, webhook_url=HOOK)
    _cancel_waiting(database, job)
    jobs.purge(database, [job.id])
    (message,) = messages(database)
    webhooks.delivered(database, message, clock.now())
    other = accepted(database, webhook_url=HOOK)
    _cancel_waiting(database, other)
    (waiting,) = webhooks.take_due(database, 1.0)
    webhooks.failed(database, waiting, "gone", None)
    jobs.purge(database, [other.id])
    assert [one.job_id for one in messages(database)] == [job.id]


# --- sent


@pytest.fixture
def sender(settings: Settings, database: Database) -> Iterator[Callable[..., WebhookSender]]:
    started: list[WebhookSender] = []

    def start(**values: Any) -> WebhookSender:
        started.append(
            WebhookSender(settings.model_copy(update=values), database, Meters(RestingRedis(settings.redis)))
        )
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()
        one.join(5)


def test_a_receiver_that_fails_for_a_while(
    settings: Settings, database: Database, receiver: Receiver, sender: Callable[..., WebhookSender],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(standard_webhooks, "WAITS_SECONDS", (0, 0, 0))
    receiver.status = 500
    job = accepted(database, webhook_url=receiver.url)
    _cancel_waiting(database, job)
    sender(outbound_allow="127.0.0.1")
    headers, body = receiver.came.get(timeout=10)
    receiver.status = 200
    wait_for(lambda: messages(database)[0].state == "delivered", 20)
    assert messages(database)[0].tries >= 2
    while not receiver.came.empty():
        again, same = receiver.came.get()
        assert (again["webhook-id"], same) == (headers["webhook-id"], body)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = standard_webhooks.key_of(webhook_secret(settings, database))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    content = json.loads(body)
    assert (content["type"], content["data"]["id"]) == ("job.cancelled", job.id)


def test_given_up_and_sent_again_by_hand(
    client: TestClient, database: Database, receiver: Receiver, sender: Callable[..., WebhookSender],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(standard_webhooks, "WAITS_SECONDS", (0,))
    receiver.status = 500
    _cancel_waiting(database, accepted(database, webhook_url=receiver.url))
    sender(outbound_allow="127.0.0.1")
    wait_for(lambda: messages(database)[0].state == "dead", 20)
    path = "/api/v1/webhooks/messages"
    (dead,) = client.get(path, params={"state": "dead"}).json()["data"]
    assert (dead["tries"], dead["error"], dead["host"]) == (2, "answered 500", "127.0.0.1")
    assert "hook" not in json.dumps(dead).replace("webhook", ""), "an address may hold a secret"
    receiver.status = 200
    answer = client.post(f"{path}/{dead['id']}/replay")
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    wait_for(lambda: messages(database)[0].state == "delivered", 20)
    assert client.post(f"{path}/msg_{jobs.new_id()}/replay").status_code == 404
    assert client.post(f"{path}/nothing/replay").status_code == 404


def test_what_waits_cannot_be_replayed(client: TestClient, database: Database) -> None:
    _cancel_waiting(database, accepted(database, webhook_url=HOOK))
    (message,) = messages(database)
    assert client.post(f"/api/v1/webhooks/messages/{message.id}/replay").status_code == 409


def test_messages_are_paged(client: TestClient, database: Database) -> None:
    for _ in range(5):
        _cancel_waiting(database, accepted(database, webhook_url=HOOK))
    path, found, after = "/api/v1/webhooks/messages", [], None
    while True:
        page = client.get(path, params={"limit": 2, **({"after": after} if after else {})}).json()
        found += [one["id"] for one in page["data"]]
        after = page["next"]
        if not page["has_more"]:
            break
    assert found == sorted((one.id for one in messages(database)), reverse=True)
    for wrong in ({"limit": "0"}, {"after": "x"}, {"state": "x"}, {"page": "1"}):
        assert client.get(path, params=wrong).status_code == 422


def test_a_private_address_is_refused_for_good(
    database: Database, receiver: Receiver, sender: Callable[..., WebhookSender]
) -> None:
    _cancel_waiting(database, accepted(database, webhook_url=receiver.url))
    sender()
    wait_for(lambda: messages(database)[0].state == "dead", 20)
    assert "not a public address" in (messages(database)[0].error or "")
    assert receiver.came.empty()


# --- the guard


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::",
        "fe80::1", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    shown = f"[{address}]" if ":" in address else address
    for url, answers in ((f"http://{shown}/", [address]), ("http://innocent.example/", ["93.184.216.34", address])):
        with pytest.raises(ForbiddenAddress):
            judge(url, Allowed(), lambda host, port, answers=answers: answers)


def test_public_addresses_and_allowed_ones() -> None:
    assert judge("https://a.example/x", Allowed(), lambda host, port: ["93.184.216.34"])[1] == "93.184.216.34"
    allowed = Allowed.of("10.0.0.0/8, hooks.internal, fd00::/8")
    assert judge("http://x.example", allowed, lambda host, port: ["10.1.1.1"])[1] == "10.1.1.1"
    assert judge("http://hooks.internal", allowed, lambda host, port: ["192.168.0.1"])[1] == "192.168.0.1"
    assert judge("http://x.example", allowed, lambda host, port: ["fd00::1"])[1] == "fd00::1"
    with pytest.raises(ForbiddenAddress):
        judge("http://other.internal", allowed, lambda host, port: ["192.168.0.1"])


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "file:///etc/passwd", "http://", "//a.example", "http://u:p@a.example/", "http://[::1",
            "http://a.example:99999/", "javascript:alert(1)", "http://a.example:0/"]
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        check_url(url)


def test_a_name_that_changes_its_mind_gains_nothing(receiver: Receiver) -> None:
    """The connection goes to the address that was judged, with the name in `Host`; it is not asked for again."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    url = f"http://rebinding.example:{receiver.server.server_port}/hook"
    standard_webhooks.send(url, SECRET, "msg_1", b"{}", clock.now(), Allowed.of("127.0.0.1"), resolve)
    headers, _ = receiver.came.get(timeout=5)
    assert asked == ["rebinding.example"]
    assert headers["Host"] == f"rebinding.example:{receiver.server.server_port}"


def test_a_redirect_is_a_refusal(receiver: Receiver) -> None:
    receiver.status = 302
    with pytest.raises(NotTaken, match="answered 302"):
        standard_webhooks.send(receiver.url, SECRET, "msg_1", b"{}", clock.now(), Allowed.of("127.0.0.1"))


def test_a_proxy_of_the_environment_is_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    standard_webhooks.send(receiver.url, SECRET, "msg_1", b"{}", clock.now(), Allowed.of("127.0.0.1"))
    assert not receiver.came.empty()


def test_a_receiver_that_never_ends_its_answer() -> None:
    """Its status is enough; what it goes on saying is left unread."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
                try:
                    while True:
                        connection.sendall(b"x" * 65536)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        standard_webhooks.send(url, SECRET, "msg_1", b"{}", clock.now(), Allowed.of("127.0.0.1"))


# --- asked for over the API


def test_a_request_names_its_webhook(client: TestClient, database: Database) -> None:
    made = client.post(URL, json={**GOOD, "webhook_url": HOOK, "webhook_progress": True}).json()
    row = jobs.get(database, made["id"])
    assert (row.webhook_url, row.webhook_progress) == (HOOK, True)
    assert "hooks.example" not in json.dumps(client.get(f"/api/v1/jobs/{made['id']}").json())
    client.post(f"/api/v1/jobs/{made['id']}/cancel")
    again = client.post(f"/api/v1/jobs/{made['id']}/retry").json()
    assert jobs.get(database, again["id"]).webhook_url == HOOK


@pytest.mark.parametrize(
    "url", ["", "hooks.example", "ftp://x.example/", "http://u:p@x.example/", "http://" + "x" * 2000, 7]
)
def test_a_webhook_that_is_none(client: TestClient, url: object) -> None:
    answer = client.post(URL, json={**GOOD, "webhook_url": url})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "webhook_url"]


def test_what_may_be_reached_is_checked_at_the_start() -> None:
    assert load(outbound_allow="10.0.0.0/8,hooks.internal").outbound_allow
    with pytest.raises(Exception, match="WANWORKS_OUTBOUND_ALLOW"):
        load(outbound_allow="10.0.0.0/99")


def test_the_installations_own_secret_stands(settings: Settings, database: Database, tmp_path: Path) -> None:
    first = webhook_secret(settings, database)
    assert first == webhook_secret(settings, database)
    assert len(standard_webhooks.key_of(first)) == 32
    assert webhook_secret(load(webhook_secret=SECRET), database) == SECRET
