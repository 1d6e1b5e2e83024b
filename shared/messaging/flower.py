"""Flower's address, and whether it responds. It is asked by HTTP, because a frozen process keeps its port open."""

import http.client
from urllib.parse import urlsplit

from shared.settings import Settings

TIMEOUT_SECONDS = 2.0


def url(settings: Settings) -> str:
    """Return Flower's URL for processes of this host, without the path."""
    return settings.flower_url or f"http://127.0.0.1:{settings.flower_port}"


def answers(settings: Settings) -> bool:
    """Return whether Flower responds to a request within two seconds, with any status."""
    address = urlsplit(url(settings))
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"{settings.public_path}/flower/healthcheck")
        connection.getresponse()
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
