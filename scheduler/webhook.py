"""One message to a webhook, signed by the Standard Webhooks scheme (standardwebhooks.com, version 1 of its signature).

The receiver finds the message's id in `webhook-id`, the same at every try, and can so tell a message that comes twice.
"""

import base64
import hashlib
import hmac
import json
from datetime import datetime
from typing import Any

import httpx

# How long to wait after each try that failed: a day in all, then it is given up.
WAITS_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800)
_TIMEOUT_SECONDS = 10.0
_GONE = 410  # the receiver wants no more of it


class NotTaken(Exception):
    """The receiver did not take the message; `again`: it is worth another try."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``; `secret` is base64 after ``whsec_``."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


def send(url: str, secret: str, message_id: str, content: dict[str, Any], now: datetime) -> None:
    """Posts the content as JSON. Raises NotTaken unless the receiver answers 2xx within ten seconds."""
    body = json.dumps(content, separators=(",", ":")).encode()
    timestamp = int(now.timestamp())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "wanworks",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message_id, timestamp, body),
    }
    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotTaken(type(error).__name__) from None  # its text may hold the address
    if not answer.is_success:
        raise NotTaken(f"answered {answer.status_code}", again=answer.status_code != _GONE)
