"""Save the content of a URL that a client provides in a file, through the guard of `outbound.py`, with resume.

Bytes are only appended, so the transfer may be interrupted at any moment; it continues where it was if the server still
has the same content (by its strong ETag), and otherwise starts again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import anyio
import httpx

from shared.errors import ConfigurationError
from shared.net.outbound import REDIRECT, REDIRECTS, Allowed, NotFetched, Resolve, client_of, route_to

_TRIES = 5
_PAUSE_SECONDS = 1.0


class NoUse(NotFetched):
    """The server's answer will not change, so that another try has no use."""


@dataclass(frozen=True)
class Wanted:
    """What to fetch, and how much of it at most."""

    url: str
    allowed: Allowed
    max_bytes: int
    quiet_seconds: float = 60.0  # how long the server may send nothing
    headers: Mapping[str, str] | None = None  # sent to the URL's own host only
    resolve: Resolve | None = None


def save(wanted: Wanted, path: Path, came: Callable[[int, int | None], None]) -> None:
    """Append the content to the file until it is complete. `came` is called with the bytes so far and in all.

    It may raise, which ends the transfer. Raises ForbiddenAddress, NotFetched, and OSError of the file.
    """
    anyio.run(_save, wanted, path, came)


async def _save(wanted: Wanted, path: Path, came: Callable[[int, int | None], None]) -> None:
    tag = ""
    left = _TRIES
    while True:
        left -= 1
        before = _size(path) if tag else 0
        try:
            await _try(wanted, path, before, tag, came)
            return
        except _Broken as error:
            tag = error.tag
            if _size(path) > before:
                left = _TRIES  # it moves on, however slowly
            if left == 0:
                raise NotFetched(str(error)) from None
        await anyio.sleep(_PAUSE_SECONDS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class _Broken(Exception):
    def __init__(self, reason: str, tag: str) -> None:
        super().__init__(reason)
        self.tag = tag


async def _try(wanted: Wanted, path: Path, offset: int, tag: str, came: Callable[[int, int | None], None]) -> str:
    """Send one request, after its redirects. Return the content's ETag. Raises _Broken if the rest can still come."""
    url, headers = wanted.url, dict(wanted.headers or {})
    try:
        for _ in range(REDIRECTS + 1):
            route = await route_to(url, wanted.allowed, wanted.resolve)
            if urlsplit(url)[:2] != urlsplit(wanted.url)[:2]:  # scheme, host and port
                headers = {}  # a token is for the host that it was given for
            resume = {"Range": f"bytes={offset}-", "If-Range": tag} if offset else {}
            request = route.request({"Accept-Encoding": "identity", **headers, **resume})
            async with client_of(route, wanted.quiet_seconds) as client, client.stream("GET", **request) as answer:
                if answer.status_code in REDIRECT and "location" in answer.headers:
                    url = urljoin(url, answer.headers["location"])
                    continue
                return await _read(answer, wanted, path, offset if answer.status_code == 206 else 0, came)
    except ConfigurationError as error:
        raise NotFetched(f"The server cannot request the URL: {error.message}") from None
    except httpx.TimeoutException:
        raise _Broken(f"The URL sent nothing for {wanted.quiet_seconds:g} s", tag) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _Broken(f"The host of the URL could not be reached ({type(error).__name__})", tag) from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of the file
        raise NotFetched("The host of the URL was not found") from None
    raise NoUse(f"The URL redirects more than {REDIRECTS} times")


async def _read(
    answer: httpx.Response, wanted: Wanted, path: Path, offset: int, came: Callable[[int, int | None], None]
) -> str:
    if answer.status_code not in (200, 206):
        kind = _Broken if answer.status_code >= 500 or answer.status_code == 429 else None
        text = f"The URL responded with status {answer.status_code}"
        raise kind(text, "") if kind else NoUse(text)
    tag = answer.headers.get("etag", "")
    tag = "" if tag.startswith("W/") else tag
    declared = answer.headers.get("content-length", "")
    whole = offset + int(declared) if declared.isascii() and declared.isdigit() else None
    too_large = NoUse(f"The content of the URL is larger than {wanted.max_bytes / 10**6:g} MB")
    if whole is not None and whole > wanted.max_bytes:
        raise too_large
    done = offset
    with path.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.truncate()
        try:
            async for piece in answer.aiter_raw():
                done += len(piece)
                if done > wanted.max_bytes:
                    raise too_large
                file.write(piece)
                came(done, whole)
        except httpx.HTTPError:
            raise _Broken("The connection to the URL's host broke", tag) from None
    if whole is not None and done < whole:
        raise _Broken("The connection to the URL's host ended too early", tag)
    return tag
