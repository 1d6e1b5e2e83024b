"""Where Flower is, and whether it answers. A process that is frozen keeps its port open, so the port is not asked."""

import http.client
from urllib.parse import urlsplit

from shared.settings import Settings

PATIENCE_SECONDS = 2.0


def url(settings: Settings) -> str:
    """Where the processes of this host find it, without the path that it serves under."""
    return settings.flower_url or f"http://127.0.0.1:{settings.flower_port}"


def answers(settings: Settings) -> bool:
    """Whether it answers a request, whatever the answer, within two seconds."""
    place = urlsplit(url(settings))
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", f"{settings.public_path}/flower/healthcheck")
        connection.getresponse()
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
