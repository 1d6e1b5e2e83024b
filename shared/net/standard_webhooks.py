"""Messages to webhooks by the Standard Webhooks scheme (standardwebhooks.com, version 1 of its signature).

The header `webhook-id` has the message's id, the same at each try, so that receivers can recognise duplicates.
"""

import base64
import binascii
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from shared.errors import ConfigurationError, WanworksError
from shared.net.outbound import Allowed, Resolve, post
from wanworks.net.urls import ForbiddenAddress

# Delays after each failed try: a day in total, then the message is dropped.
WAITS_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800)
DELIVERY_SECONDS = 10.0  # for one complete try
_GONE = 410  # the receiver refuses further messages


class NotTaken(WanworksError):
    """The receiver did not accept the message. `again`: another try may succeed."""

    code = "not_taken"

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


def key_of(secret: str) -> bytes:
    """Return the key from ``whsec_`` and base64. Raises ValueError for another format or length."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("must be base64, after whsec_") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("must encode 24 to 64 bytes")
    return key


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return ``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``; the body is JSON in UTF-8."""
    moment = datetime.fromtimestamp(timestamp, UTC)  # the library takes any moment for UTC
    return Webhook(key_of(secret)).sign(message_id, moment, body.decode())


def send(
    url: str,
    secret: str,
    message_id: str,
    body: bytes,
    now: datetime,
    allowed: Allowed,
    resolve: Resolve | None = None,
) -> None:
    """Post the JSON without following redirects. Raises NotTaken unless the receiver responds with 2xx.

    The whole delivery has ten seconds, so that no receiver delays its sender for longer.
    """
    timestamp = int(now.timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "wanworks",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message_id, timestamp, body),
    }
    try:
        status = post(url, body, headers, allowed=allowed, seconds=DELIVERY_SECONDS, resolve=resolve)
    except ForbiddenAddress as error:
        raise NotTaken(f"is not allowed: {error.message}", again=False) from None
    except ConfigurationError as error:
        raise NotTaken(f"cannot be sent: {error.message}") from None
    except TimeoutError:
        raise NotTaken(f"did not respond within {DELIVERY_SECONDS:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise NotTaken(f"cannot be reached ({type(error).__name__})") from None  # the error's text may contain the URL
    if not 200 <= status < 300:
        raise NotTaken(f"responded with status {status}", again=status != _GONE)


def wait_after(tries: int) -> int | None:
    """Return the seconds until the next try after this many failed ones; None: no further try."""
    return WAITS_SECONDS[tries - 1] if tries <= len(WAITS_SECONDS) else None
