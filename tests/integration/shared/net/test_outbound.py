"""Fetching what somebody else named: only from where this host may be sent, and no more than is wanted."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from shared.net import outbound
from shared.net.outbound import Allowed, NotFetched, Resolve
from tests.conftest import free_port
from wanworks.net.urls import ForbiddenAddress

LOOPBACK = Allowed.of("127.0.0.1/32")
PUBLIC = "93.184.215.14"


@dataclass
class Place:
    """A server on one address; `answers` says what lies where, `seen` what it was asked."""

    port: int
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)

    def url(self, host: str, path: str) -> str:
        return f"http://{host}:{self.port}{path}"


def serve(address: str, port: int) -> tuple[Place, ThreadingHTTPServer]:
    place = Place(port)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place.seen.append((self.path, self.headers["Host"]))
            place.answers[self.path](self)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return place, server


@pytest.fixture
def place() -> Iterator[Place]:
    place, server = serve("127.0.0.1", free_port())
    yield place
    server.shutdown()
    server.server_close()


@pytest.fixture
def inner(place: Place) -> Iterator[Place]:
    """On the same port of an address that is not allowed."""
    inner, server = serve("127.0.0.2", place.port)
    inner.answers["/"] = content(b"secret")
    yield inner
    server.shutdown()
    server.server_close()


def content(body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(to: str, status: int = 302) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def names(**addresses: list[str]) -> Resolve:
    return lambda host, port: addresses[host]


def get(
    url: str, allowed: Allowed = LOOPBACK, resolve: Resolve | None = None, max_bytes: int = 1000, seconds: float = 5.0
) -> bytes:
    return anyio.run(lambda: outbound.get(url, allowed=allowed, max_bytes=max_bytes, seconds=seconds, resolve=resolve))


def test_what_lies_there(place: Place) -> None:
    place.answers["/a.png?x=1"] = content(b"picture")
    assert get(place.url("pictures", "/a.png?x=1"), resolve=names(pictures=["127.0.0.1"])) == b"picture"
    assert place.seen == [("/a.png?x=1", f"pictures:{place.port}")]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
     "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::"],
)  # fmt: skip
def test_private_addresses_are_refused_without_a_connection(place: Place, address: str) -> None:
    with pytest.raises(ForbiddenAddress, match="is not a public address"):
        get(place.url("host", "/"), allowed=Allowed(), resolve=names(host=[address]))
    with pytest.raises(ForbiddenAddress):  # one bad address among good ones is enough
        get(place.url("host", "/"), allowed=Allowed(), resolve=names(host=[PUBLIC, address]))
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(ForbiddenAddress):
        get(place.url(literal, "/"), allowed=Allowed())
    assert place.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/",
        "http://",
        "//host/",
        "host",
        "http://me:pw@host/",
        "http://[::1",
        "",
        "http://h\u00f6st/",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        get(url, resolve=names(host=[PUBLIC]))


def test_other_spellings_of_this_host_are_refused(place: Place) -> None:
    for host in ("2130706433", "0x7f000001", "017700000001", "127.1", "localhost"):
        with pytest.raises((ForbiddenAddress, NotFetched)):
            get(place.url(host, "/"), allowed=Allowed())
    assert place.seen == []


def test_private_places_that_the_setting_names(place: Place) -> None:
    place.answers["/"] = content(b"ours")
    resolve = names(nas=["127.0.0.1"])
    for allowed in ("nas", "127.0.0.1", "127.0.0.0/8, 10.0.0.0/8"):
        assert get(place.url("nas", "/"), Allowed.of(allowed), resolve) == b"ours"
    with pytest.raises(ForbiddenAddress):
        get(place.url("nas", "/"), Allowed.of("other, 10.0.0.0/8, fd00::/8"), resolve)


def test_redirects_are_followed_three_times(place: Place) -> None:
    place.answers |= {
        "/1": redirect("/2", 301), "/2": redirect(place.url("b", "/3"), 307), "/3": redirect("4", 308),
        "/4": content(b"there"), "/round": redirect("/round"),
    }  # fmt: skip
    resolve = names(a=["127.0.0.1"], b=["127.0.0.1"])
    assert get(place.url("a", "/1"), resolve=resolve) == b"there"
    assert [host for _, host in place.seen] == [f"{host}:{place.port}" for host in ("a", "a", "b", "b")]
    with pytest.raises(NotFetched, match="redirects more than 3 times"):
        get(place.url("a", "/round"), resolve=resolve)
    assert len(place.seen) == 8


def test_a_redirect_to_a_private_address_is_refused(place: Place, inner: Place) -> None:
    place.answers |= {
        "/by-address": redirect(inner.url("127.0.0.2", "/")), "/by-name": redirect(inner.url("inner", "/")),
        "/scheme": redirect("file:///etc/passwd"), "/broken": redirect("http://[::1"),
    }  # fmt: skip
    resolve = names(a=["127.0.0.1"], inner=["127.0.0.2"], **{"127.0.0.2": ["127.0.0.2"]})
    for path in ("/by-address", "/by-name", "/scheme"):
        with pytest.raises(ForbiddenAddress):
            get(place.url("a", path), resolve=resolve)
    with pytest.raises(NotFetched):
        get(place.url("a", "/broken"), resolve=resolve)
    assert inner.seen == []


def test_a_name_that_changes_its_mind_gains_nothing(place: Place, inner: Place) -> None:
    place.answers["/"] = content(b"public")
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]])
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    assert get(place.url("rebind", "/"), resolve=resolve) == b"public"
    assert asked == ["rebind"]  # looked up once, and connected to what was judged
    with pytest.raises(ForbiddenAddress):
        get(place.url("rebind", "/"), resolve=resolve)
    assert inner.seen == []


def test_the_proxy_of_the_environment_is_left_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    place.answers["/"] = content(b"direct")
    assert get(place.url("a", "/"), resolve=names(a=["127.0.0.1"])) == b"direct"


def test_more_than_is_wanted_is_not_read(place: Place) -> None:
    written = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(100_000):
                handler.wfile.write(b"x" * 1000)
                written.append(1000)
        except OSError:
            return

    place.answers |= {"/exact": content(b"x" * 1000), "/declared": content(b"x" * 1001), "/endless": endless}
    resolve = names(a=["127.0.0.1"])
    assert len(get(place.url("a", "/exact"), resolve=resolve)) == 1000
    for path in ("/declared", "/endless"):
        with pytest.raises(NotFetched, match=r"larger than 0\.001 MB"):
            get(place.url("a", path), resolve=resolve)
    assert sum(written) < 100_000_000


def test_a_packed_answer_is_not_unpacked(place: Place) -> None:
    place.answers["/"] = content(b"\x1f\x8b packed", Content_Encoding="gzip")
    assert get(place.url("a", "/"), resolve=names(a=["127.0.0.1"])) == b"\x1f\x8b packed"


@pytest.mark.parametrize("slow", ["headers", "body", "silence"])
def test_the_time_is_limited_altogether(place: Place, slow: str) -> None:
    """Also against one that sends a byte now and then, so that no single read ever takes long."""
    done = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"X: " if slow == "headers" else b"\r\n"))
            while not done.wait(0.05):
                if slow != "silence":
                    handler.wfile.write(b"x")
        except OSError:
            return

    place.answers["/"] = drip
    started = time.monotonic()
    with pytest.raises(NotFetched, match=r"did not respond within 0\.5 s"):
        get(place.url("a", "/"), resolve=names(a=["127.0.0.1"]), seconds=0.5, max_bytes=10**6)
    done.set()
    assert time.monotonic() - started < 3


def test_a_resolver_that_does_not_answer(place: Place) -> None:
    answered = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        answered.wait(20)
        return ["127.0.0.1"]

    async def ask() -> float:
        started = time.monotonic()
        with pytest.raises(NotFetched, match="did not respond"):
            await outbound.get("http://a/", allowed=LOOPBACK, max_bytes=10, seconds=0.3, resolve=resolve)
        waited = time.monotonic() - started
        answered.set()
        return waited

    assert anyio.run(ask) < 3


def test_what_else_goes_wrong_is_said_plainly(place: Place) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    place.answers["/none"] = lambda handler: handler.send_error(404)
    with pytest.raises(NotFetched, match="host of the URL was not found"):
        get("http://nowhere.example/", resolve=unknown)
    with pytest.raises(NotFetched, match="status 404"):
        get(place.url("a", "/none"), resolve=names(a=["127.0.0.1"]))
    with pytest.raises(NotFetched, match="could not be reached"):
        get(f"http://a:{free_port()}/", resolve=names(a=["127.0.0.1"]))
