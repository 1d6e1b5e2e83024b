"""Webhooks that are sent: again after a failure, and no receiver delays another."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared import clock
from shared.cluster.nodes import webhook_secret
from shared.database.engine import Database
from shared.jobs import ids
from shared.messaging.progress import RestingRedis
from shared.net import standard_webhooks
from shared.net.outbound import Allowed
from shared.net.standard_webhooks import NotTaken
from shared.settings import Settings
from shared.telemetry.metrics import LOOP_ERRORS, Meters
from tests.conftest import both_databases
from tests.integration.api.jobs.generation_requests import GOOD, URL
from tests.integration.scheduler.alerts.test_alerts import SECRET, Receiver
from tests.integration.workers.processes.webhook_messages import HOOK, HUNDREDS, _cancel_waiting, _due, messages
from tests.support.jobs import accepted
from tests.support.stack import wait_for
from wanworks.net.urls import ForbiddenAddress, check_url
from workers.processes.webhook_sender import WebhookSender


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
    assert client.post(f"{path}/msg_{ids.new_id()}/replay").status_code == 404
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
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._ended.set()
        # A thread that still waits in accept() after the close would serve the next socket with the same number.
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
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
        deadline = time.monotonic() + 9  # by its own passes a sender would take ten seconds
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
    with pytest.raises(NotTaken, match="did not respond"):
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
