"""`python -m api.hub --root DIR --port N`: serve a mirror of models, for sites without internet access."""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from api.hub.app import create_app

_GRACE_SECONDS = 3
# Unsent bytes in the kernel for one client; more would only be lost when the client disconnects.
_UNSENT_BYTES = 256 << 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.hub", description="Serve a folder of models as a hub.")
    parser.add_argument("--root", type=Path, required=True, help="a Hugging Face cache: models--ORG--NAME folders")
    parser.add_argument("--port", type=int, default=8080, help="0: choose a free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--token",
        default=os.environ.get("WANWORKS_MIRROR_TOKEN"),
        help="token that clients must send; prefer WANWORKS_MIRROR_TOKEN, which `ps` does not show",
    )
    options = parser.parse_args()
    if not options.root.is_dir():
        sys.exit(f"{options.root} is not a folder")
    serve(create_app(options.root.absolute(), options.token), options.host, options.port)


def serve(app: object, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Prints ``ready URL`` to standard output once connections are accepted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)  # connections inherit it
    try:
        listener.bind((host, port))
    except OSError as error:
        sys.exit(f"cannot listen on {host}:{port}: {error.strerror}")
    listener.listen(256)
    shown = f"[{host}]" if ":" in host else host
    print(f"ready http://{shown}:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
