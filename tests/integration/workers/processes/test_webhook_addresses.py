"""Where webhooks may go: never to private addresses, by no redirect and no proxy."""

import socket
import threading

import pytest

from shared import clock
from shared.net import standard_webhooks
from shared.net.outbound import Allowed, judge
from shared.net.standard_webhooks import NotTaken
from tests.integration.scheduler.alerts.test_alerts import SECRET, Receiver
from wanworks.net.urls import ForbiddenAddress, check_url


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
