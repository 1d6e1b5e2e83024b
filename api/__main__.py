"""`python -m api`: the web process, one of it, on uvicorn."""

import signal
import sys

import uvicorn

from api.app import create_app
from shared import garbage
from shared import settings as settings_
from shared.telemetry import logs, tracing

# Long enough for an answer that is being written; event streams are told to end at once.
_GRACE_SECONDS = 2
_SAID_BYTES = 64 << 10  # at most, in one message of a WebSocket client: what it says is not read for meaning


def main() -> None:
    settings = settings_.load()
    logs.set_up(settings, "web")
    tracing.set_up(settings, "web")
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        http="httptools",
        loop="uvloop",
        ws="websockets-sansio",
        ws_max_size=_SAID_BYTES,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    garbage.settle()
    # When it has stopped, uvicorn raises the signal once more; having been asked to stop is no failure.
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: sys.exit(0))
    try:
        uvicorn.Server(config).run()
    finally:
        tracing.close()


if __name__ == "__main__":
    main()
