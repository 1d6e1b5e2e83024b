"""Requests to URLs that clients provide: webhooks, and images to fetch.

It prevents access to addresses that only this host can reach (SSRF): every address of a host name must be public, the
connection is made to the address that was checked (so that a changed name has no effect), and every redirect is checked
again or not followed. If the environment names a proxy for a URL, the proxy connects: URLs with addresses that are not
public are refused here, and the proxy must restrict the rest.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urljoin

import anyio
import httpx

from shared.errors import ConfigurationError, WanworksError
from wanworks.net import addresses, proxies
from wanworks.net.addresses import Address
from wanworks.net.urls import PORTS, ForbiddenAddress, check_url

Resolve = Callable[[str, int], Sequence[str]]
"""(host name, port) -> its addresses. Raises OSError."""

_ANSWER_BYTES = 64 << 10  # of a response whose body is ignored
REDIRECTS = 3
REDIRECT = frozenset({301, 302, 303, 307, 308})
_LOOK_UP_SECONDS = 2.0  # for a name that the proxy looks up again: behind a proxy, many hosts have no resolver
_BODY_SECONDS = 2.0  # for reading the body after the status


class NotFetched(WanworksError):
    """The URL could not be fetched."""

    code = "not_fetched"


@dataclass(frozen=True)
class Allowed:
    """Private hosts, addresses and networks that are allowed."""

    anywhere: bool = False
    hosts: frozenset[str] = frozenset()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def of(cls, text: str) -> "Allowed":
        """Parse a comma-separated list. Raises ValueError."""
        hosts, networks = set(), []
        for one in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(one))
            except ValueError:
                if "/" in one or ":" in one:
                    raise ValueError(f"{one!r} is not a host name, address or network") from None
                hosts.add(one)
        return cls(hosts=frozenset(hosts), networks=tuple(networks))

    def covers(self, host: str, address: Address) -> bool:
        return (
            self.anywhere
            or host in self.hosts
            or any(address.version == network.version and address in network for network in self.networks)
        )


ANYWHERE = Allowed(anywhere=True)  # for addresses that the operator set


def check_askable(url: str, allowed: Allowed) -> None:
    """Raise ForbiddenAddress for a URL that `post` and `get` refuse, as far as that is known without a resolver.

    These are URLs that `check_url` refuses, addresses that are not public in any notation, and names that never have a
    public address, such as localhost.
    """
    host = _host_of(check_url(url))
    address = addresses.literal(host)
    stands_for = (addresses.plain(address),) if address is not None else addresses.known(host)
    if stands_for and not any(addresses.is_public(one) or allowed.covers(host, one) for one in stands_for):
        raise ForbiddenAddress(f"{host} is not a public address")


def receiver_of(url: str) -> str:
    """Return host and port of the URL, by which deliveries are limited. It accepts any text and is never empty."""
    try:
        parts = check_url(url)
    except ForbiddenAddress:
        return "nowhere"  # no request is sent there
    host = _host_of(parts)
    return f"[{host}]:{_port_of(parts)}" if ":" in host else f"{host}:{_port_of(parts)}"


def judge(url: str, allowed: Allowed, resolve: Resolve | None = None) -> tuple[SplitResult, str]:
    """Return the URL's parts and the IP address to connect to. Raises ForbiddenAddress, and OSError without one."""
    parts = check_url(url)
    host = _host_of(parts)
    try:
        found = (resolve or _resolved)(host, _port_of(parts))
        named = [addresses.plain(ipaddress.ip_address(text.partition("%")[0])) for text in found]
    except ValueError as error:  # including the resolver's UnicodeError for a name that it cannot encode
        raise OSError("the host's name cannot be looked up") from error
    for address in named:
        _check_public(host, address, allowed)
    if not found:
        raise OSError("the host has no address")
    return parts, found[0]


def post(
    url: str,
    content: bytes,
    headers: Mapping[str, str],
    *,
    allowed: Allowed,
    seconds: float,
    resolve: Resolve | None = None,
) -> int:
    """Post the content without following redirects. Return the status of the response.

    `seconds` limits name lookup, connecting, sending and the response's headers together. Raises ForbiddenAddress,
    ConfigurationError for a proxy that cannot be used, TimeoutError, OSError, ValueError, httpx.HTTPError and
    httpx.InvalidURL.
    """

    async def ask() -> int:
        with anyio.fail_after(seconds):
            route = await route_to(url, allowed, resolve)
            async with client_of(route, seconds) as client:
                return await _status(client, route.request(headers), content)

    return anyio.run(ask)


async def get(url: str, *, allowed: Allowed, max_bytes: int, seconds: float, resolve: Resolve | None = None) -> bytes:
    """Return the content of a URL, after at most three redirects, within `seconds` in total.

    Raises ForbiddenAddress for a URL or redirect that is not allowed, and NotFetched, whose message reveals nothing of
    this host's network.
    """
    try:
        with anyio.fail_after(seconds):
            return await _fetched(url, allowed, max_bytes, seconds, resolve)
    except ConfigurationError as error:
        raise NotFetched(f"The server cannot request the URL: {error.message}") from None
    except TimeoutError:
        raise NotFetched(f"The URL did not respond within {seconds:g} s") from None
    except httpx.TimeoutException:
        raise NotFetched(f"The URL did not respond within {seconds:g} s") from None
    except (OSError, ValueError):  # of the resolver: the name does not exist or is invalid
        raise NotFetched("The host of the URL was not found") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise NotFetched("The host of the URL could not be reached") from None


async def _fetched(url: str, allowed: Allowed, max_bytes: int, seconds: float, resolve: Resolve | None) -> bytes:
    for _ in range(REDIRECTS + 1):
        route = await route_to(url, allowed, resolve)
        # Not compressed, so that no small response can expand to a large one.
        request = route.request({"Accept": "image/*", "Accept-Encoding": "identity"})
        async with client_of(route, seconds) as client, client.stream("GET", **request) as answer:
            if answer.status_code in REDIRECT and "location" in answer.headers:
                url = urljoin(url, answer.headers["location"])
                continue
            if answer.status_code != 200:
                raise NotFetched(f"The URL responded with status {answer.status_code}")
            return await _body(answer, max_bytes)
    raise NotFetched(f"The URL redirects more than {REDIRECTS} times")


async def _status(client: httpx.AsyncClient, request: Mapping[str, Any], content: bytes) -> int:
    """Return the response's status. Read some of its body, because some servers report an early close as a failure."""
    async with client.stream("POST", **request, content=content) as answer:
        read = 0
        with contextlib.suppress(httpx.HTTPError), anyio.move_on_after(_BODY_SECONDS):
            async for chunk in answer.aiter_raw():
                read += len(chunk)
                if read > _ANSWER_BYTES:
                    break
        return answer.status_code


@dataclass(frozen=True)
class _Route:
    """How a URL is requested: at the checked IP address or, if `address` is None, through the proxy."""

    parts: SplitResult
    address: str | None
    proxy: str | None

    def request(self, headers: Mapping[str, str]) -> dict[str, Any]:
        return _aimed(self.parts, self.address, headers)


async def route_to(url: str, allowed: Allowed, resolve: Resolve | None) -> _Route:
    """Return the route to a URL. Raises ForbiddenAddress, ConfigurationError and OSError."""
    check_askable(url, allowed)
    proxy = proxies.proxy_for(url)
    if proxy is None:
        return _Route(*await _judged(url, allowed, resolve), None)
    with anyio.move_on_after(_LOOK_UP_SECONDS), contextlib.suppress(OSError):
        parts, address = await _judged(url, allowed, resolve)
        if addresses.is_this_host(address):
            return _Route(parts, address, None)
    return _Route(check_url(url), None, proxy)


def client_of(route: _Route, seconds: float) -> httpx.AsyncClient:
    """Return a client for a route. `seconds`: how long the server may send nothing."""
    return httpx.AsyncClient(trust_env=False, proxy=route.proxy, timeout=seconds, follow_redirects=False)


async def _judged(url: str, allowed: Allowed, resolve: Resolve | None) -> tuple[SplitResult, str]:
    """Call `judge` in a thread that is abandoned if the caller gives up.

    The system's name lookup cannot be interrupted. The thread is a daemon, so that a resolver that does not respond
    does not delay the end of the process.
    """
    loop = asyncio.get_running_loop()
    judged: asyncio.Future[tuple[SplitResult, str]] = loop.create_future()

    def settle(answer: tuple[SplitResult, str] | None, error: Exception | None) -> None:
        if judged.done():
            return
        if answer is not None:
            judged.set_result(answer)
        else:
            judged.set_exception(error or OSError("the host has no address"))

    def look_up() -> None:
        answer, failed = None, None
        try:
            answer = judge(url, allowed, resolve)
        except Exception as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the caller has given up, and its loop is closed
            loop.call_soon_threadsafe(settle, answer, failed)

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    return await judged


async def _body(answer: httpx.Response, max_bytes: int) -> bytes:
    declared = answer.headers.get("content-length", "")
    too_large = NotFetched(f"The content of the URL is larger than {max_bytes / 10**6:g} MB")
    if declared.isascii() and declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    content = bytearray()
    async for chunk in answer.aiter_raw():
        content += chunk
        if len(content) > max_bytes:
            raise too_large
    return bytes(content)


def _host_of(parts: SplitResult) -> str:
    return (parts.hostname or "").rstrip(".").lower()


def _port_of(parts: SplitResult) -> int:
    return parts.port or PORTS[parts.scheme]


def _check_public(host: str, address: Address, allowed: Allowed) -> None:
    if not addresses.is_public(address) and not allowed.covers(host, address):
        raise ForbiddenAddress(f"{host} is not a public address")


def _aimed(parts: SplitResult, address: str | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the request to that IP address, with the name in `Host` and in the TLS handshake."""
    place = address if address is not None else _host_of(parts)
    place = f"[{place}]" if ":" in place else place
    port = f":{parts.port}" if parts.port else ""
    url = httpx.URL(f"{parts.scheme}://{place}{port}{parts.path or '/'}{'?' + parts.query if parts.query else ''}")
    return {
        "url": url,
        "headers": {**headers, "Host": parts.netloc.rpartition("@")[2]},
        "extensions": {"sni_hostname": parts.hostname},
    }


def _resolved(host: str, port: int) -> Sequence[str]:
    return list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
