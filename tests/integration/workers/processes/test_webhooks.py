"""Webhooks of jobs: every end is sent, not again after acceptance, and never to private addresses."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import update
from starlette.testclient import TestClient

from shared import clock
from shared.cluster.nodes import webhook_secret
from shared.database.engine import Database
from shared.database.tables import Job, WebhookMessage
from shared.jobs import attempts, dispatch, records, webhooks
from shared.jobs.attempts import Failure
from shared.messaging.progress import RestingRedis
from shared.net import standard_webhooks
from shared.net.outbound import Allowed, judge, receiver_of
from shared.net.standard_webhooks import NotTaken
from shared.settings import Settings, load
from shared.telemetry.metrics import LOOP_ERRORS, Meters
from tests.conftest import both_databases
from tests.integration.api.jobs.test_generation import GOOD, URL
from tests.integration.scheduler.alerts.test_alerts import SECRET, Receiver
from tests.support import working
from tests.support.jobs import accepted
from tests.support.lost_answers import lost_answers
from tests.support.stack import wait_for
from wanworks.net.urls import ForbiddenAddress, check_url
from workers.processes.webhook_sender import WebhookSender

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
    records.request_cancel(database, job.id)


def _cancel_running(database: Database, job: Job) -> None:
    running = working.claim(database, job.id)
    attempts.cancelled(database, job.id, running.attempt)


def _give_up(database: Database, job: Job) -> None:
    assert dispatch.give_up(database, job.id, Failure("no_device", "None", retryable=True)) is not None


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
def test_every_end_creates_a_message(database: Database, end: Callable[[Database, Job], None], type: str) -> None:
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


def test_a_superseded_attempt_creates_no_message(database: Database) -> None:
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
        webhooks.add_progress(database, running, f"msg_{records.new_id()}", {"percent": percent})
    (message,) = messages(database)
    assert (message.type, message.data["progress"]) == ("job.progress", {"percent": 20.0})
    working.finish(database, running, [])
    assert [one.type for one in messages(database)] == ["job.succeeded"]


def test_a_message_that_may_have_been_sent_is_not_changed(database: Database) -> None:
    """A receiver whose response was lost receives the same content again, under the same id."""
    running = working.claim(database, accepted(database, webhook_url=HOOK, webhook_progress=True).id)
    webhooks.add_progress(database, running, "msg_1", {"percent": 10.0})
    (tried,) = webhooks.take_due(database, 1.0)
    webhooks.failed(database, tried, "no answer", 0.0)
    webhooks.add_progress(database, running, "msg_2", {"percent": 20.0})
    assert {one.id: one.data["progress"]["percent"] for one in messages(database)} == {"msg_1": 10.0, "msg_2": 20.0}


def test_what_waits_outlives_its_job(database: Database) -> None:
    job = accepted(database, webhook_url=HOOK)
    _cancel_waiting(database, job)
    records.purge(database, [job.id])
    (message,) = messages(database)
    webhooks.delivered(database, message, clock.now())
    other = accepted(database, webhook_url=HOOK)
    _cancel_waiting(database, other)
    (waiting,) = webhooks.take_due(database, 1.0)
    webhooks.failed(database, waiting, "gone", None)
    records.purge(database, [other.id])
    assert [one.job_id for one in messages(database)] == [job.id]


HUNDREDS = 300


def _due(database: Database, *urls: str) -> None:
    """Messages of ended jobs, due in that order."""
    rows = [
        WebhookMessage(
            id=f"msg_{records.new_id()}", job_id=records.new_id(), type="job.succeeded", url=url,
            receiver=receiver_of(url), data={}, state="waiting", created_at=clock.now(), due_at=1000.0 + place,
        )
        for place, url in enumerate(urls)
    ]  # fmt: skip
    with database.write() as session:
        session.add_all(rows)


@both_databases
def test_hundreds_of_messages_of_one_receiver_do_not_hide_others(database: Database) -> None:
    _due(database, *["http://busy.example/x"] * HUNDREDS, "http://a.example/", "http://b.example/", "http://a.example/")
    first = webhooks.take_due(database, 60.0, limit=8, per_receiver=2)
    assert [one.receiver for one in first] == ["busy.example:80"] * 2 + ["a.example:80", "b.example:80", "a.example:80"]
    second = webhooks.take_due(database, 60.0, limit=8, per_receiver=2, busy={"busy.example:80": 1})
    assert [one.receiver for one in second] == ["busy.example:80"]
    assert webhooks.take_due(database, 60.0, limit=8, per_receiver=2, busy={"busy.example:80": 2}) == []


@both_databases
def test_messages_of_an_earlier_version_get_their_receiver(database: Database) -> None:
    _due(database, *["https://Busy.example.:8443/x"] * 3, "http://[2001:db8::1]/", "http://a..b/")
    with database.write() as session:
        session.execute(update(WebhookMessage).values(receiver=""))
    taken = webhooks.take_due(database, 60.0, limit=8, per_receiver=2)
    assert [one.receiver for one in taken] == ["busy.example:8443"] * 2 + ["[2001:db8::1]:80", "nowhere"]


def test_a_job_names_its_receiver(database: Database) -> None:
    _cancel_waiting(database, accepted(database, webhook_url=HOOK))
    assert [one.receiver for one in messages(database)] == ["hooks.example:443"]


@both_databases
@pytest.mark.parametrize("settle", ["delivered", "failed", "dead"])
def test_what_came_of_a_try_is_written_once_though_the_answer_to_that_is_lost(database: Database, settle: str) -> None:
    _due(database, HOOK)
    (taken,) = webhooks.take_due(database, 60.0)
    with lost_answers():
        if settle == "delivered":
            webhooks.delivered(database, taken, clock.now())
        else:
            webhooks.failed(database, taken, "No", 5.0 if settle == "failed" else None)
    (after,) = messages(database)
    assert (after.tries, after.state) == (1, "waiting" if settle == "failed" else settle)


@both_databases
def test_a_try_that_outlasted_its_time_does_not_undo_the_next_one(database: Database) -> None:
    _due(database, HOOK)
    (slow,) = webhooks.take_due(database, -1.0)
    (quick,) = webhooks.take_due(database, 60.0)
    webhooks.delivered(database, quick, clock.now())
    webhooks.failed(database, slow, "It did not answer", 5.0)
    (after,) = messages(database)
    assert (after.state, after.tries, after.due_at) == ("delivered", 1, None)


@both_databases
def test_a_try_of_before_does_not_touch_a_replayed_message(database: Database) -> None:
    _cancel_waiting(database, accepted(database, webhook_url=HOOK))
    with database.write() as session:
        session.connection().execute(update(WebhookMessage).values(tries=5))
    (outlasted,) = webhooks.take_due(database, 0.0)
    (last,) = webhooks.take_due(database, 60.0)
    webhooks.failed(database, last, "gone", None)
    webhooks.replay(database, last.id)
    webhooks.failed(database, outlasted, "late", None)
    (message,) = messages(database)
    assert (message.state, message.tries, message.error) == ("waiting", 0, None)


@both_databases
def test_a_replay_whose_answer_is_lost_is_no_conflict(database: Database) -> None:
    _due(database, HOOK)
    (taken,) = webhooks.take_due(database, 60.0)
    webhooks.delivered(database, taken, clock.now())
    with lost_answers():
        again = webhooks.replay(database, taken.id)
    assert (again.state, again.tries) == ("waiting", 0)


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
    assert (dead["tries"], dead["error"], dead["host"]) == (2, "responded with status 500", "127.0.0.1")
    assert "hook" not in json.dumps(dead).replace("webhook", ""), "an address may hold a secret"
    receiver.status = 200
    answer = client.post(f"{path}/{dead['id']}/replay")
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    wait_for(lambda: messages(database)[0].state == "delivered", 20)
    assert client.post(f"{path}/msg_{records.new_id()}/replay").status_code == 404
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


class Dripping:
    """A receiver that accepts and then sends single bytes without end."""

    def __init__(self, start: bytes) -> None:
        self.asked = 0
        self._start = start
        self._ended = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._server.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.asked += 1
            threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                connection.sendall(self._start)
                while not self._ended.wait(0.05):
                    connection.sendall(b"x")
            except OSError:
                return


HEAD = b"HTTP/1.1 200 OK\r\nX-Slow: "


@both_databases
def test_a_slow_receiver_with_hundreds_of_messages_delays_no_other(
    database: Database, receiver: Receiver, sender: Callable[..., WebhookSender]
) -> None:
    with closing(Dripping(HEAD)) as slow:
        _due(database, *[slow.url] * HUNDREDS, *[receiver.url] * 5)
        sender(outbound_allow="127.0.0.1")
        for _ in range(5):
            receiver.came.get(timeout=5)
        wait_for(lambda: sum(one.state == "delivered" for one in messages(database)) == 5, 5)
        assert slow.asked <= 4


def test_a_slot_that_is_free_takes_the_next_message_though_others_are_slow(
    database: Database, receiver: Receiver, sender: Callable[..., WebhookSender]
) -> None:
    """Far more messages than slots go to one receiver while another's delivery is still under way."""
    with closing(Dripping(HEAD)) as slow:
        _due(database, slow.url, *[receiver.url] * 40)
        sender(outbound_allow="127.0.0.1")
        deadline = time.monotonic() + 5  # by its own passes a sender would take ten seconds
        for _ in range(40):
            receiver.came.get(timeout=max(0.0, deadline - time.monotonic()))
        assert slow.asked == 1


def test_no_more_deliveries_are_under_way_than_there_are_slots(
    database: Database, sender: Callable[..., WebhookSender]
) -> None:
    with ExitStack() as open_ones:
        slow = [open_ones.enter_context(closing(Dripping(HEAD))) for _ in range(20)]
        _due(database, *[one.url for one in slow])
        started = sender(outbound_allow="127.0.0.1")
        wait_for(lambda: sum(one.asked for one in slow) == 16, 5)
        assert not started._fill_slots()
        assert sum(one.asked for one in slow) == 16


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", HEAD])
def test_a_delivery_has_a_bound_altogether(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_webhooks, "DELIVERY_SECONDS", 0.4)
    with closing(Dripping(start)) as slow:
        began = time.monotonic()
        with pytest.raises(NotTaken, match=r"did not respond within 0\.4 s"):
            standard_webhooks.send(slow.url, SECRET, "msg_1", b"{}", clock.now(), Allowed.of("127.0.0.1"))
    assert time.monotonic() - began < 2


def test_a_slow_body_does_not_count_against_a_receiver_that_has_taken_the_message() -> None:
    with closing(Dripping(b"HTTP/1.1 200 OK\r\n\r\n")) as slow:
        standard_webhooks.send(slow.url, SECRET, "msg_1", b"{}", clock.now(), Allowed.of("127.0.0.1"))


def test_a_name_lookup_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_webhooks, "DELIVERY_SECONDS", 0.3)
    answered = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        answered.wait(20)
        return ["127.0.0.1"]

    began = time.monotonic()
    with pytest.raises(NotTaken, match="did not answer"):
        standard_webhooks.send("http://x.example/", SECRET, "msg_1", b"{}", clock.now(), Allowed(), resolve)
    assert time.monotonic() - began < 2
    looking_up = [thread for thread in threading.enumerate() if thread.name == "look-up"]
    assert all(thread.daemon for thread in looking_up), "or the process could not end before the resolver does"
    answered.set()


@pytest.mark.parametrize("error", [UnicodeError("label empty or too long"), ValueError("embedded null byte")])
def test_what_the_resolver_cannot_even_ask_for_is_not_reached(error: Exception) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise error

    with pytest.raises(NotTaken, match=r"cannot be reached \(OSError\)"):
        standard_webhooks.send("http://x.example/", SECRET, "msg_1", b"{}", clock.now(), Allowed(), resolve)


ODD_HOSTS = [
    "a..b", ".a", "a..", ".", "x" * 64, "x" * 64 + ".example", ".".join(["abcdefghi"] * 26), "h\u00f6st.example",
    "\u3002.example", "a b", "a%2eb", "a%b", "[::1%25eth0]", "[1.2.3.4]", "[v1.x]", "[::1]x", "a*b", "a,b", "a\x7fb",
]  # fmt: skip


def test_no_address_ends_the_sender(
    database: Database, receiver: Receiver, sender: Callable[..., WebhookSender]
) -> None:
    _due(database, *[f"http://{host}/" for host in ODD_HOSTS], receiver.url)
    running = sender(outbound_allow="127.0.0.1")
    receiver.came.get(timeout=10)
    wait_for(lambda: all(one.state != "waiting" for one in messages(database)), 10)
    assert running.is_alive()
    assert {one.state for one in messages(database) if one.url != receiver.url} == {"dead"}


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_an_odd_host_is_refused_when_it_is_named(client: TestClient, host: str) -> None:
    with pytest.raises(ForbiddenAddress, match="address"):
        check_url(f"http://{host}/")
    answer = client.post(URL, json={**GOOD, "webhook_url": f"http://{host}/"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "webhook_url"]


@pytest.mark.parametrize(
    "host", ["a.example", "A-1_b.example.", "x" * 63, "[2001:db8::1]:8080", "93.184.216.34", "xn--hst-sna.example:1"]
)
def test_an_ordinary_host_is_not(host: str) -> None:
    check_url(f"http://{host}/p\u00e4th?q=\u00e4")


def test_an_unforeseen_error_costs_one_try_of_one_message(
    settings: Settings, database: Database, receiver: Receiver, sender: Callable[..., WebhookSender],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(standard_webhooks, "WAITS_SECONDS", (0, 0))
    send, failed = standard_webhooks.send, list[str]()

    def fail_first(url: str, secret: str, message_id: str, *rest: Any) -> None:
        if not failed:
            failed.append(message_id)
            raise KeyError("unforeseen")
        send(url, secret, message_id, *rest)

    monkeypatch.setattr(standard_webhooks, "send", fail_first)
    _due(database, receiver.url, receiver.url)
    running = sender(outbound_allow="127.0.0.1")
    wait_for(lambda: all(one.state == "delivered" for one in messages(database)), 10)
    assert {one.id: one.tries for one in messages(database)}[failed[0]] == 2
    assert running._counts._counts.get((LOOP_ERRORS.name, "webhooks", "total"), 1.0) == 1.0


def test_a_sender_that_stops_does_not_wait_for_a_slow_receiver(
    database: Database, sender: Callable[..., WebhookSender]
) -> None:
    with closing(Dripping(HEAD)) as slow:
        _due(database, slow.url)
        running = sender(outbound_allow="127.0.0.1")
        wait_for(lambda: slow.asked == 1, 5)
        began = time.monotonic()
        assert running.stop()
        assert time.monotonic() - began < 1
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "webhook")


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
    """The connection goes to the checked address, with the name in `Host`; the name is not resolved again."""
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
    with pytest.raises(NotTaken, match="responded with status 302"):
        standard_webhooks.send(receiver.url, SECRET, "msg_1", b"{}", clock.now(), Allowed.of("127.0.0.1"))


def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    standard_webhooks.send(receiver.url, SECRET, "msg_1", b"{}", clock.now(), Allowed.of("127.0.0.1"))
    assert not receiver.came.empty()


def test_a_receiver_that_never_ends_its_answer() -> None:
    """The status is sufficient; the rest of the response is not read."""
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
    row = records.get(database, made["id"])
    assert (row.webhook_url, row.webhook_progress) == (HOOK, True)
    assert "hooks.example" not in json.dumps(client.get(f"/api/v1/jobs/{made['id']}").json())
    client.post(f"/api/v1/jobs/{made['id']}/cancel")
    again = client.post(f"/api/v1/jobs/{made['id']}/retry").json()
    assert records.get(database, again["id"]).webhook_url == HOOK


@pytest.mark.parametrize(
    "url", ["", "hooks.example", "ftp://x.example/", "http://u:p@x.example/", "http://" + "x" * 2000, 7]
)
def test_an_invalid_webhook(client: TestClient, url: object) -> None:
    answer = client.post(URL, json={**GOOD, "webhook_url": url})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "webhook_url"]


def test_what_may_be_reached_is_checked_at_the_start() -> None:
    assert load(outbound_allow="10.0.0.0/8,hooks.internal").outbound_allow
    with pytest.raises(Exception, match="WANWORKS_OUTBOUND_ALLOW"):
        load(outbound_allow="10.0.0.0/99")


def test_the_configured_secret_is_used(settings: Settings, database: Database, tmp_path: Path) -> None:
    first = webhook_secret(settings, database)
    assert first == webhook_secret(settings, database)
    assert len(standard_webhooks.key_of(first)) == 32
    assert webhook_secret(load(webhook_secret=SECRET), database) == SECRET
