"""The environment's proxies (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY), and which requests use them.

Requests to this host itself never use one, whatever NO_PROXY contains. Messages never contain a proxy's address, which
may include a password.
"""

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies_environment

import httpx

from wanworks.errors import ConfigurationError
from wanworks.net import addresses

_PORTS = {"http": 80, "https": 443}
_KINDS = {"http": "http", "https": "https", "socks": "socks5h", "socks5": "socks5", "socks5h": "socks5h"}
_ALLOWED = "http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"


def proxy_for(url: str) -> str | None:
    """Return the proxy of a request to that URL, as SCHEME://[USER:PASSWORD@]HOST[:PORT], or None.

    Raises ConfigurationError naming the variable whose value cannot be read, never the value.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or addresses.is_this_host(host):
        return None
    named = getproxies_environment()  # lower case before upper case; an empty one unsets; ignores CGI's HTTP_PROXY
    name = parts.scheme if parts.scheme in named else "all"
    if name not in named or _is_excepted(parts, named.get("no", "")):
        return None
    return _readable(_variable(name), named[name])


def variable_for(url: str) -> str | None:
    """Return the name of the variable whose proxy a request to that URL uses; None without a proxy."""
    try:
        if proxy_for(url) is None:
            return None
    except ConfigurationError:
        pass
    scheme = urlsplit(url).scheme
    return _variable(scheme if scheme in getproxies_environment() else "all")


def http_proxy_for(url: str, what: str) -> str | None:
    """Like `proxy_for`, for a client that supports only HTTP proxies. Raises ConfigurationError for a SOCKS proxy."""
    proxy = proxy_for(url)
    if proxy is not None and proxy.startswith("socks"):
        raise ConfigurationError(
            f"{variable_for(url)}: {what} cannot go through a SOCKS proxy; set HTTPS_PROXY or HTTP_PROXY to an HTTP "
            f"proxy, or name the host in NO_PROXY"
        )
    return proxy


def complaints() -> list[str]:
    """Return a sentence for each invalid variable; only the requests that use it fail."""
    named = getproxies_environment()
    found = []
    for name in ("http", "https", "all"):
        if name in named:
            try:
                _readable(_variable(name), named[name])
            except ConfigurationError as error:
                found.append(error.message)
    found += [
        f"{_variable('no')}: {entry!r} is neither a host, a domain, an address nor a network; it is ignored"
        for entry in _entries(named.get("no", ""))
        if _Exception.of(entry) is None
    ]
    return found


Route = TypeVar("Route")


class Routes(Generic[Route]):
    """One transport per proxy, and one for direct connections; each is created when it is first needed."""

    def __init__(self, make: Callable[[str | None], Route]) -> None:
        self._make = make
        self._made: dict[str | None, Route] = {}

    def to(self, url: str) -> Route:
        """Return the transport for a URL. Raises ConfigurationError as `proxy_for` does."""
        proxy = proxy_for(url)
        route = self._made.get(proxy)
        if route is None:
            route = self._made[proxy] = self._make(proxy)
        return route

    def made(self) -> list[Route]:
        return list(self._made.values())


class Transport(httpx.BaseTransport):
    """Sends each request directly or through the environment's proxy, as `proxy_for` decides."""

    def __init__(self) -> None:
        self._routes = Routes(lambda proxy: httpx.HTTPTransport(proxy=proxy))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._routes.to(str(request.url)).handle_request(request)

    def close(self) -> None:
        for route in self._routes.made():
            route.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """Like `Transport`, for asyncio and trio."""

    def __init__(self) -> None:
        self._routes = Routes(lambda proxy: httpx.AsyncHTTPTransport(proxy=proxy))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._routes.to(str(request.url)).handle_async_request(request)

    async def aclose(self) -> None:
        for route in self._routes.made():
            await route.aclose()


@dataclass(frozen=True)
class _Exception:
    """One entry of NO_PROXY: a network, an address, or a host with all hosts under it; on one port, or on all."""

    name: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    port: int | None

    @classmethod
    def of(cls, entry: str) -> "_Exception | None":
        """Return the parsed entry; None if it is invalid."""
        text, port = entry.lower(), None
        if found := re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})", text):
            text, port = found[1], int(found[2])
        text = text.strip("[]") if text.startswith("[") else text
        address, slash, length = text.partition("/")
        network = addresses.literal(address.strip("[]"))
        if network is not None:
            try:
                return cls("", ipaddress.ip_network(f"{network}/{length}" if slash else str(network), False), port)
            except ValueError:
                return None
        name = text.removeprefix("*").strip(".")
        return cls(name, None, port) if re.fullmatch(r"[a-z0-9_.-]+", name) else None

    def covers(self, host: str, port: int | None) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is None:
            return host == self.name or host.endswith(f".{self.name}")
        address = addresses.literal(host)
        if address is None:
            return False
        address = addresses.plain(address)
        return address.version == self.network.version and address in self.network


def _entries(text: str) -> list[str]:
    return [entry for entry in re.split(r"[,\s]+", text) if entry and entry != "*"]


def _is_excepted(parts: SplitResult, no_proxy: str) -> bool:
    if "*" in re.split(r"[,\s]+", no_proxy):
        return True
    host = (parts.hostname or "").rstrip(".").lower()
    port = parts.port or _PORTS.get(parts.scheme)
    found = (_Exception.of(entry) for entry in _entries(no_proxy))
    return any(one.covers(host, port) for one in found if one is not None)


def _variable(name: str) -> str:
    """Return the variable's name as set; if both cases are set, the lower-case one counts."""
    lower = f"{name}_proxy"
    return lower if lower in os.environ else lower.upper()


def _readable(variable: str, value: str) -> str:
    """Return the proxy in normalised form. Raises ConfigurationError."""
    text = value.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        kind, host, port = _KINDS.get(parts.scheme.lower()), parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"{variable}: is not a valid proxy address; use {_ALLOWED}") from None
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in text) or not host or port == 0:
        raise ConfigurationError(f"{variable}: is not a valid proxy address; use {_ALLOWED}")
    if kind is None:
        raise ConfigurationError(f"{variable}: {parts.scheme[:20]}:// is not a supported kind of proxy; use {_ALLOWED}")
    login, at, _ = parts.netloc.rpartition("@")
    place = f"[{host}]" if ":" in host else host
    return f"{kind}://{login}{at}{place}{f':{port}' if port is not None else ''}"
