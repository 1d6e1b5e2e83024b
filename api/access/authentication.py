"""Authenticate requests by an API key, a session cookie of the live page, or a signed link.

An installation that never had a key and listens on loopback only is open to its own host, because local users can
access its files anyway. Pages of other sites and requests through a proxy are refused there: the `Host` header must be
a local one, and no header of a proxy may be present. Once a key was created, keys are required, even after that key
was revoked.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.requests import HTTPConnection

from api.access.caller import LINK, LOCAL, Caller, set_caller
from api.access.rates import Rates
from api.middleware.origin import is_own_page
from shared import clock
from shared.access import keys
from shared.access.signing import is_signed, sign
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import ApiKey
from shared.errors import Forbidden, StoreFull, Unauthenticated, Unavailable
from shared.settings import Settings
from shared.states import Scope
from wanworks.net.addresses import is_loopback

log = logging.getLogger(__name__)

COOKIE = "wanworks_session"
SESSION_SECONDS = 12 * 3600
_SIGNING_KEY = "signing_key"  # in the table of the installation's values
_SESSION, _LINK, _KEY = "session", "artifact", "key"
# A revoked key is refused by all processes within this time.
_CACHE_SECONDS = 2.0
_MAX_CACHED = 10_000
_PROXY_HEADERS = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"})


@dataclass(frozen=True)
class _Cached:
    row: ApiKey
    until: float


class Access:
    def __init__(self, settings: Settings, database: Database, rates: Rates) -> None:
        self._settings = settings
        self._on_loopback = is_loopback(settings.host)
        self._database = database
        self._rates = rates
        # By (kind, value) of the credential, so that the id in a session is never accepted as a key.
        self._cached: dict[tuple[str, str], _Cached] = {}
        self._keys_made = False
        self._checked_at = float("-inf")
        self._signing_key: str | None = None

    async def admit(self, connection: HTTPConnection, scope: Scope) -> Caller:
        """Authenticate and authorise a request, and attach the caller to it.

        Raises Unauthenticated, Forbidden, LimitReached or DatabaseUnavailable.
        """
        caller = await self.caller(connection)
        set_caller(connection, caller)
        if caller.key_id is not None and caller.limits.requests_per_minute is not None:
            await anyio.to_thread.run_sync(self._rates.count, caller.key_id, caller.limits.requests_per_minute)
        caller.require(scope)
        return caller

    async def caller(self, connection: HTTPConnection) -> Caller:
        """Authenticate a request. Raises Unauthenticated, Forbidden or DatabaseUnavailable."""
        if await self.is_open():
            self._check_local(connection)
            return LOCAL
        secret = _bearer(connection)
        if secret is not None:
            return await self.with_key(secret)
        # An allowed origin may be same-site; the browser then sends the cookie too, which must be ignored then.
        key_id = await self._session(connection.cookies.get(COOKIE, "")) if is_own_page(connection) else None
        if key_id is not None:
            return _caller(await self._valid_row((_SESSION, key_id), partial(keys.get, self._database, key_id)))
        raise Unauthenticated()

    async def with_key(self, secret: str) -> Caller:
        """Return the caller with this key. Raises Unauthenticated or DatabaseUnavailable."""
        return _caller(await self._valid_row((_KEY, secret), partial(keys.find, self._database, secret)))

    async def is_open(self) -> bool:
        """Return whether no key is required. Raises DatabaseUnavailable."""
        if self._keys_made or not self._on_loopback:
            return False
        now = time.monotonic()
        if now - self._checked_at > _CACHE_SECONDS:
            self._keys_made = await anyio.to_thread.run_sync(keys.any_made, self._database)
            self._checked_at = now
        return not self._keys_made

    async def session(self, caller: Caller) -> str:
        """Return the value of the session cookie: a signed key id and expiry. It is invalid once the key is revoked."""
        assert caller.key_id is not None
        until = str(int(time.time()) + SESSION_SECONDS)
        return ".".join((caller.key_id, until, sign(await self._signed_with(), _SESSION, caller.key_id, until)))

    async def link(self, path: str, seconds: int) -> tuple[str, int]:
        """Return the path with a signature that is valid for `seconds`, and its expiry in seconds since 1970."""
        expires = int(time.time()) + seconds
        signature = sign(await self._signed_with(), _LINK, path, str(expires))
        return f"{path}?expires={expires}&signature={signature}", expires

    async def holder(self, path: str, expires: str, signature: str) -> Caller:
        """Authenticate a signed link to the path. Raises Forbidden if its signature is wrong or it has expired."""
        if not is_signed(signature, await self._signed_with(), _LINK, path, expires):
            raise Forbidden("The link's signature is invalid. Request a new link.")
        if int(expires) < time.time():
            raise Forbidden("The link has expired. Request a new link.")
        return LINK

    def _check_local(self, connection: HTTPConnection) -> None:
        """Refuse requests that did not come directly from this host. Raises Forbidden.

        A page of another site may resolve its own name to this host; `Host` then has that name. A proxy may forward
        requests of the whole network; its headers then name the client.
        """
        if any(name in _PROXY_HEADERS for name, _ in connection.scope["headers"]):
            raise Forbidden("Requests through a proxy need an API key. Create the first one with: wanworks keys create")
        host = _other_host(connection.headers.get("host", ""), self._settings.host)
        if host is not None:
            raise Forbidden(
                f"Without API keys only requests to a local host name are allowed, not to {host[:100]!r}. "
                "Create a key with: wanworks keys create"
            )

    async def _valid_row(self, credential: tuple[str, str], read: Callable[[], ApiKey | None]) -> ApiKey:
        """Return the valid key's row, from the cache or the database. Raises Unauthenticated."""
        cached = self._cached.get(credential)
        if cached is None or time.monotonic() > cached.until:
            row = await anyio.to_thread.run_sync(self._read, read)
            if row is None:
                self._cached.pop(credential, None)
                raise Unauthenticated("The API key is unknown")
            if len(self._cached) >= _MAX_CACHED:
                self._cached.clear()
            cached = self._cached[credential] = _Cached(row, time.monotonic() + _CACHE_SECONDS)
        if cached.row.revoked_at is not None:
            raise Unauthenticated("The API key was revoked")
        if not keys.is_good(cached.row, clock.now()):
            raise Unauthenticated("The API key has expired")
        return cached.row

    def _read(self, read: Callable[[], ApiKey | None]) -> ApiKey | None:
        row = read()
        if row is not None and keys.is_good(row, clock.now()):
            try:
                keys.note_use(self._database, row)
            except (StoreFull, Unavailable) as error:
                # An operator who wants to free a full disk must still be able to sign in.
                log.warning("the last use of the key %s could not be stored: %s", row.name, error)
        return row

    async def _session(self, cookie: str) -> str | None:
        """Return the key id of a valid session cookie, else None."""
        key_id, _, rest = cookie.partition(".")
        until, _, signature = rest.partition(".")
        if not signature or not is_signed(signature, await self._signed_with(), _SESSION, key_id, until):
            return None
        return key_id if int(until) > time.time() else None

    async def _signed_with(self) -> str:
        if self._signing_key is None:
            self._signing_key = await anyio.to_thread.run_sync(nodes.agreed, self._database, _SIGNING_KEY)
        return self._signing_key


@lru_cache(maxsize=100)  # of few values: clients choose them, and each may be long
def _other_host(named: str, own: str) -> str | None:
    """Return the host that a `Host` header names, if it is neither `own` nor a local name or address."""
    try:
        host = urlsplit(f"//{named}").hostname or ""
    except ValueError:
        host = named
    return host if host and host != own and not is_loopback(host) else None


def _caller(row: ApiKey) -> Caller:
    return Caller(row.name, frozenset(Scope(scope) for scope in row.scopes), row.id, limits=keys.limits(row))


def _bearer(connection: HTTPConnection) -> str | None:
    """Return the key in the Authorization header, None without one. Raises Unauthenticated for another scheme."""
    header = connection.headers.get("authorization")
    if header is None:
        return None
    scheme, _, secret = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("The Authorization header must have the form `Bearer KEY`")
    return secret.strip()
