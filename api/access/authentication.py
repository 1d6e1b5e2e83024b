"""Who may come in: a key in the `Authorization` header, a session of the page, a signed link, or nobody at all.

An installation that never had a key and listens on loopback alone is open to its own host: whoever reaches that port
has the machine anyway. A page of another site must not, so there the request has to name the host as itself; nor must
those who come through a proxy, whose requests only look as if this host made them. As soon as a key was made, keys are
asked for, whatever becomes of that key.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
_SIGNING_KEY = "signing_key"  # in the installation's table
_SESSION, _LINK, _KEY = "session", "artifact", "key"
# A revoked key is refused everywhere within this time.
_BELIEVED_SECONDS = 2.0
_MOST_REMEMBERED = 10_000
_OF_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


@dataclass(frozen=True)
class _Known:
    row: ApiKey
    until: float


class Access:
    def __init__(self, settings: Settings, database: Database, rates: Rates) -> None:
        self._settings = settings
        self._database = database
        self._rates = rates
        # By what was shown, a key or the id in a session: the id alone, shown as a key, is none.
        self._known: dict[tuple[str, str], _Known] = {}
        self._keys_made = False
        self._looked_at = float("-inf")
        self._signing_key: str | None = None

    async def admit(self, connection: HTTPConnection, scope: Scope) -> Caller:
        """Whoever asks, if they may; noted with the request as soon as they are known.

        Raises Unauthenticated, Forbidden, LimitReached or DatabaseUnavailable.
        """
        caller = await self.caller(connection)
        set_caller(connection, caller)
        if caller.key_id is not None and caller.limits.requests_per_minute is not None:
            await anyio.to_thread.run_sync(self._rates.count, caller.key_id, caller.limits.requests_per_minute)
        caller.require(scope)
        return caller

    async def caller(self, connection: HTTPConnection) -> Caller:
        """Whoever asks. Raises Unauthenticated, Forbidden or DatabaseUnavailable."""
        if await self.is_open():
            self._check_local(connection)
            return LOCAL
        secret = _bearer(connection)
        if secret is not None:
            return await self.with_key(secret)
        # An allowed origin may be of the same site, and its visitor's browser then sends the cookie along.
        key_id = await self._session(connection.cookies.get(COOKIE, "")) if is_own_page(connection) else None
        if key_id is not None:
            return _caller(await self._believed((_SESSION, key_id), partial(keys.get, self._database, key_id)))
        raise Unauthenticated()

    async def with_key(self, secret: str) -> Caller:
        """Whose key that is. Raises Unauthenticated or DatabaseUnavailable."""
        return _caller(await self._believed((_KEY, secret), partial(keys.find, self._database, secret)))

    async def is_open(self) -> bool:
        """Whether nobody needs a key. Raises DatabaseUnavailable."""
        if self._keys_made or not is_loopback(self._settings.host):
            return False
        now = time.monotonic()
        if now - self._looked_at > _BELIEVED_SECONDS:
            self._keys_made = await anyio.to_thread.run_sync(keys.any_made, self._database)
            self._looked_at = now
        return not self._keys_made

    async def session(self, caller: Caller) -> str:
        """What the page's cookie holds: whose session it is, and until when. It is no key, and dies with the key."""
        assert caller.key_id is not None
        until = str(int(time.time()) + SESSION_SECONDS)
        return ".".join((caller.key_id, until, sign(await self._signed_with(), _SESSION, caller.key_id, until)))

    async def link(self, path: str, seconds: int) -> tuple[str, int]:
        """The path with a signature that is good for so long, and until when that is, in seconds since 1970."""
        expires = int(time.time()) + seconds
        signature = sign(await self._signed_with(), _LINK, path, str(expires))
        return f"{path}?expires={expires}&signature={signature}", expires

    async def holder(self, path: str, expires: str, signature: str) -> Caller:
        """Whoever holds a link to that path. Raises Forbidden where it was not made here, or is over."""
        if not is_signed(signature, await self._signed_with(), _LINK, path, expires):
            raise Forbidden("This link was not made here: its signature is wrong")
        if int(expires) < time.time():
            raise Forbidden("This link has expired; ask for a new one")
        return LINK

    def _check_local(self, connection: HTTPConnection) -> None:
        """Another site's page may have its own name lead to this host; the browser then says so in `Host`. A proxy may
        bring the whole network here; it then says for whom it asks. Raises Forbidden."""
        if any(name in connection.headers for name in _OF_PROXIES):
            raise Forbidden("Without API keys nobody is served through a proxy; make one: wanworks keys create")
        named = connection.headers.get("host", "")
        try:
            host = urlsplit(f"//{named}").hostname or ""
        except ValueError:
            host = named
        if host and host != self._settings.host and not is_loopback(host):
            raise Forbidden(
                f"Without API keys only this host itself is served, not {host[:100]!r}; make one: wanworks keys create"
            )

    async def _believed(self, shown: tuple[str, str], look: Callable[[], ApiKey | None]) -> ApiKey:
        """The row of what was shown, from a moment ago or from the database. Raises Unauthenticated."""
        known = self._known.get(shown)
        if known is None or time.monotonic() > known.until:
            row = await anyio.to_thread.run_sync(self._look_up, look)
            if row is None:
                self._known.pop(shown, None)
                raise Unauthenticated("There is no such API key")
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[shown] = _Known(row, time.monotonic() + _BELIEVED_SECONDS)
        if known.row.revoked_at is not None:
            raise Unauthenticated("This API key was revoked")
        if not keys.is_good(known.row, clock.now()):
            raise Unauthenticated("This API key has expired")
        return known.row

    def _look_up(self, look: Callable[[], ApiKey | None]) -> ApiKey | None:
        row = look()
        if row is not None and keys.is_good(row, clock.now()):
            try:
                keys.note_use(self._database, row)
            except (StoreFull, Unavailable) as error:
                # Whoever comes to make room on a full disk must still get in.
                log.warning("the use of the key %s was not written down: %s", row.name, error)
        return row

    async def _session(self, cookie: str) -> str | None:
        """Whose session the cookie is; None where it is none, or over."""
        key_id, _, rest = cookie.partition(".")
        until, _, signature = rest.partition(".")
        if not signature or not is_signed(signature, await self._signed_with(), _SESSION, key_id, until):
            return None
        return key_id if int(until) > time.time() else None

    async def _signed_with(self) -> str:
        if self._signing_key is None:
            self._signing_key = await anyio.to_thread.run_sync(nodes.agreed, self._database, _SIGNING_KEY)
        return self._signing_key


def _caller(row: ApiKey) -> Caller:
    return Caller(row.name, frozenset(Scope(scope) for scope in row.scopes), row.id, limits=keys.limits(row))


def _bearer(connection: HTTPConnection) -> str | None:
    """Raises Unauthenticated for a header that holds no key."""
    header = connection.headers.get("authorization")
    if header is None:
        return None
    scheme, _, secret = header.strip().partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("The Authorization header is not `Bearer KEY`")
    return secret.strip()
