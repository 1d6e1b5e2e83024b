"""Messages to webhooks by the Standard Webhooks scheme (standardwebhooks.com, version 1 of its signature).

The receiver finds the message's id in `webhook-id`, the same at every try, and can so tell a message that comes twice.
"""

import base64
import binascii
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from shared.errors import ConfigurationError, WanworksError
from shared.net.outbound import Allowed, Resolve, post
from wanworks.net.urls import ForbiddenAddress

# How long to wait after each try that failed: a day in all, then the message is given up.
WAITS_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800)
DELIVERY_SECONDS = 10.0  # for one try altogether
_GONE = 410  # the receiver wants no more of it


class NotTaken(WanworksError):
    """The receiver did not take the message; `again`: it is worth another try."""

    code = "not_taken"

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


def key_of(secret: str) -> bytes:
    """The key that ``whsec_`` and base64 stand for. Raises ValueError where it is no such text, or too short."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("must be base64, after whsec_") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("must stand for 24 to 64 bytes")
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
    """Posts the JSON, redirects not followed. Raises NotTaken unless the receiver answers 2xx within ten seconds.

    The ten seconds are for the whole delivery: no receiver holds up its sender for longer, however it answers.
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
        raise NotTaken(f"may not be asked: {error.message}", again=False) from None
    except ConfigurationError as error:
        raise NotTaken(f"cannot be sent: {error.message}") from None
    except TimeoutError:
        raise NotTaken(f"did not answer within {DELIVERY_SECONDS:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise NotTaken(f"cannot be reached ({type(error).__name__})") from None  # its own text may hold the address
    if not 200 <= status < 300:
        raise NotTaken(f"answered {status}", again=status != _GONE)


def wait_after(tries: int) -> int | None:
    """Seconds until the next try, when so many have failed; None: it is given up."""
    return WAITS_SECONDS[tries - 1] if tries <= len(WAITS_SECONDS) else None
