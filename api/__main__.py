"""`python -m api`: run one web process on uvicorn."""

import signal
import sys

from shared import startup

if __name__ == "__main__":
    startup.begin()

import uvicorn

from api.app import create_app
from shared import garbage
from shared import settings as settings_
from shared.telemetry import logs, tracing

# Enough for responses in progress; event streams end at once.
_GRACE_SECONDS = 2
_MESSAGE_BYTES = 64 << 10  # maximum size of a WebSocket message from a client; its content is ignored


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
        ws_max_size=_MESSAGE_BYTES,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    garbage.settle()
    # After its shutdown uvicorn raises the signal again; a requested stop is not a failure.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    try:
        uvicorn.Server(config).run()
    finally:
        tracing.close()


if __name__ == "__main__":
    main()
