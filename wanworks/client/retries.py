"""Decide which requests are repeated, when, and for how long. Pure except for the clock and random numbers."""

import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from wanworks.client.steps import Answer, Emit, Open, Pause, Send, Step, T, relayed
from wanworks.errors import ApiUnreachable
from wanworks.net import proxies

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 8.0
_NOT_NOW = (429, 503)
# The server cannot have received the request.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# It may have been carried out. Other errors (for example an invalid URL) would occur again.
_BROKEN = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)


@dataclass(frozen=True)
class Retry:
    """How long requests are repeated while the server is unreachable or busy (429, 503)."""

    seconds: float = 30.0  # in all, for one request
    at_first: bool = True  # also if the server has never answered this client


class Contact:
    """Whether the server has answered, and its name in errors."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made = False


def patient(
    call: Generator[Step | Emit[Any], Any, T], retry: Retry, contact: Contact
) -> Generator[Step | Emit[Any], Any, T]:
    """Run the call and repeat its requests where that is safe. Raises ApiUnreachable if that fails."""

    def instead(step: Step | Emit[Any]) -> Generator[Step | Emit[Any], Any, Any]:
        if isinstance(step, Send | Open):
            return (yield from _sent(step, retry, contact))
        return (yield step)

    return relayed(call, instead)


def retry_after(answer: Answer, now: datetime) -> float | None:
    """Return the wait that the header requests, in seconds; None if it is missing or invalid (RFC 9110)."""
    said = answer.headers.get("retry-after", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        moment = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def pause_seconds(tries: int, asked_seconds: float | None, dice: float) -> float:
    """Return the wait before the next try: doubling from 0.25 s to 8 s, with jitter by `dice` (0 to 1), and at least
    what the server requested."""
    backing_off = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(tries, 10))
    spread = backing_off * (0.5 + 0.5 * dice)
    return spread if asked_seconds is None else asked_seconds + 0.25 * spread


def _sent(step: Send | Open, retry: Retry, contact: Contact) -> Generator[Step, Any, Answer]:
    deadline = time.monotonic() + (retry.seconds if contact.made or retry.at_first else 0.0)
    repeatable = not isinstance(step, Send) or step.repeatable
    tries = 0
    while True:
        retry_after_seconds: float | None = None
        try:
            answer: Answer = yield step
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if isinstance(step, Open) and step.once:
                raise
            again = isinstance(error, _NEVER_SENT) or (repeatable and isinstance(error, _BROKEN))
            failure: ApiUnreachable | None = _unreachable(error, contact)
        else:
            if not contact.made:
                contact.made, deadline = True, max(deadline, time.monotonic() + retry.seconds)
            once = isinstance(step, Open) and step.once
            again = not once and answer.status in _NOT_NOW and (repeatable or answer.status == 429)
            failure, retry_after_seconds = None, retry_after(answer, datetime.now(UTC))
            if not again:
                return answer
        pause = pause_seconds(tries, retry_after_seconds, random.random())
        if not again or time.monotonic() + pause > deadline:
            if failure is not None:
                raise failure from None
            return answer
        tries += 1
        yield Pause(pause)


def _unreachable(error: Exception, contact: Contact) -> ApiUnreachable:
    if isinstance(error, httpx.TimeoutException):
        return ApiUnreachable(f"the API at {contact.url} does not answer in time")
    variable = proxies.variable_for(contact.url)
    through = f" through the proxy that {variable} names" if variable is not None else ""
    return ApiUnreachable(f"the API at {contact.url} cannot be reached{through}: {error}")
