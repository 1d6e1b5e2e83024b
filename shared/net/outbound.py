"""Requests to addresses that somebody else named: webhooks, and pictures to be fetched.

The guard against being used to reach what only this host can reach: every address that a name stands for must be
public, the connection is made to the very address that was judged (so a name that changes its mind gains nothing),
and every redirect is judged anew or not followed at all. Where the environment names a proxy for an address, the proxy
connects: what is not public is refused here before it is asked, and what it may reach is for the proxy to limit.
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
"""The addresses that a host's name stands for. Raises OSError."""

_ANSWER_BYTES = 64 << 10  # of an answer that nobody reads for meaning
_REDIRECTS = 3
_REDIRECT = frozenset({301, 302, 303, 307, 308})
_LOOK_UP_SECONDS = 2.0  # for a name that a proxy looks up again: behind one, many hosts have no resolver of their own
_BODY_SECONDS = 2.0  # for reading what follows a status that is known already


class NotFetched(WanworksError):
    """What lies at an address could not be fetched."""

    code = "not_fetched"


@dataclass(frozen=True)
class Allowed:
    """Private places that may be reached all the same: host names, addresses and networks."""

    anywhere: bool = False
    hosts: frozenset[str] = frozenset()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def of(cls, text: str) -> "Allowed":
        """From a comma-separated list. Raises ValueError."""
        hosts, networks = set(), []
        for one in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(one))
            except ValueError:
                if "/" in one or ":" in one:
                    raise ValueError(f"{one!r} is neither a host's name nor a network") from None
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
    """Raises ForbiddenAddress for a URL that `post` and `get` will never ask, as far as that shows without a resolver.

    That is: what `check_url` refuses; an address that is not public, however it is spelled; and names that never stand
    for a public address, such as localhost.
    """
    host = _host_of(check_url(url))
    address = addresses.literal(host)
    stands_for = (addresses.plain(address),) if address is not None else addresses.known(host)
    if stands_for and not any(addresses.is_public(one) or allowed.covers(host, one) for one in stands_for):
        raise ForbiddenAddress(f"{host} is not a public address")


def receiver_of(url: str) -> str:
    """Host and port of the address, never empty: what deliveries are limited by. Any text will do."""
    try:
        parts = check_url(url)
    except ForbiddenAddress:
        return "nowhere"  # nothing is sent there
    host = _host_of(parts)
    return f"[{host}]:{_port_of(parts)}" if ":" in host else f"{host}:{_port_of(parts)}"


def judge(url: str, allowed: Allowed, resolve: Resolve | None = None) -> tuple[SplitResult, str]:
    """The address's parts and the one IP address to connect to. Raises ForbiddenAddress, and OSError without one."""
    parts = check_url(url)
    host = _host_of(parts)
    try:
        found = (resolve or _resolved)(host, _port_of(parts))
        named = [addresses.plain(ipaddress.ip_address(text.partition("%")[0])) for text in found]
    except ValueError as error:  # a UnicodeError too: the resolver's, of a name that it cannot even ask for
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
    """Posts the content, redirects not followed, within `seconds` altogether. Returns the status of the answer.

    Looking up the name, connecting, sending and the answer's head all count against `seconds`. Raises ForbiddenAddress,
    ConfigurationError for a proxy that cannot be used, TimeoutError, OSError, ValueError, httpx.HTTPError and
    httpx.InvalidURL.
    """

    async def ask() -> int:
        with anyio.fail_after(seconds):
            way = await _way(url, allowed, resolve)
            async with _client(way, seconds) as client:
                return await _status(client, way.request(headers), content)

    return anyio.run(ask)


async def get(url: str, *, allowed: Allowed, max_bytes: int, seconds: float, resolve: Resolve | None = None) -> bytes:
    """What lies there, after at most three redirects, within `seconds` altogether.

    Raises ForbiddenAddress for an address or a redirect that this server may not follow, and NotFetched, which says
    why in words that tell nothing of this host's network.
    """
    try:
        with anyio.fail_after(seconds):
            return await _fetched(url, allowed, max_bytes, seconds, resolve)
    except ConfigurationError as error:
        raise NotFetched(f"The server cannot ask the address: {error.message}") from None
    except TimeoutError:
        raise NotFetched(f"The address did not deliver within {seconds:g} s") from None
    except httpx.TimeoutException:
        raise NotFetched(f"The address did not deliver within {seconds:g} s") from None
    except (OSError, ValueError):  # the resolver's: there is no such name, or there cannot be
        raise NotFetched("The host of the address was not found") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise NotFetched("The host of the address could not be asked") from None


async def _fetched(url: str, allowed: Allowed, max_bytes: int, seconds: float, resolve: Resolve | None) -> bytes:
    for _ in range(_REDIRECTS + 1):
        way = await _way(url, allowed, resolve)
        # As it is: nothing is unpacked, so that no small answer can become a large one.
        request = way.request({"Accept": "image/*", "Accept-Encoding": "identity"})
        async with _client(way, seconds) as client, client.stream("GET", **request) as answer:
            if answer.status_code in _REDIRECT and "location" in answer.headers:
                url = urljoin(url, answer.headers["location"])
                continue
            if answer.status_code != 200:
                raise NotFetched(f"The address answered with status {answer.status_code}")
            return await _body(answer, max_bytes)
    raise NotFetched(f"The address redirects more than {_REDIRECTS} times")


async def _status(client: httpx.AsyncClient, request: Mapping[str, Any], content: bytes) -> int:
    """The answer's status. Its body is read a little, since some senders take an early end for a failure."""
    async with client.stream("POST", **request, content=content) as answer:
        read = 0
        with contextlib.suppress(httpx.HTTPError), anyio.move_on_after(_BODY_SECONDS):
            async for chunk in answer.aiter_raw():
                read += len(chunk)
                if read > _ANSWER_BYTES:
                    break
        return answer.status_code


@dataclass(frozen=True)
class _Way:
    """How an address is asked: at the IP address that was judged, or, where `address` is None, through the proxy."""

    parts: SplitResult
    address: str | None
    proxy: str | None

    def request(self, headers: Mapping[str, str]) -> dict[str, Any]:
        return _aimed(self.parts, self.address, headers)


async def _way(url: str, allowed: Allowed, resolve: Resolve | None) -> _Way:
    """Raises ForbiddenAddress, ConfigurationError and OSError."""
    check_askable(url, allowed)
    proxy = proxies.proxy_for(url)
    if proxy is None:
        return _Way(*await _judged(url, allowed, resolve), None)
    with anyio.move_on_after(_LOOK_UP_SECONDS), contextlib.suppress(OSError):
        parts, address = await _judged(url, allowed, resolve)
        if addresses.is_this_host(address):
            return _Way(parts, address, None)
    return _Way(check_url(url), None, proxy)


def _client(way: _Way, seconds: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, proxy=way.proxy, timeout=seconds, follow_redirects=False)


async def _judged(url: str, allowed: Allowed, resolve: Resolve | None) -> tuple[SplitResult, str]:
    """Does what `judge` does, in a thread that is left behind where the caller gives up.

    Names are looked up by the system, which cannot be interrupted. The thread is a daemon, so that a resolver that does
    not answer delays no process that ends.
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
        with contextlib.suppress(RuntimeError):  # whoever asked has given up, and its loop is closed
            loop.call_soon_threadsafe(settle, answer, failed)

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    return await judged


async def _body(answer: httpx.Response, max_bytes: int) -> bytes:
    declared = answer.headers.get("content-length", "")
    too_large = NotFetched(f"What lies at the address is larger than {max_bytes / 10**6:g} MB")
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
    """The request to that IP address: the name stands in `Host` and in the certificate that is asked for."""
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
