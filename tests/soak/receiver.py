"""A receiver of webhooks: records every message, and accepts, refuses or delays it.

`/good/N` takes everything; `/failing/N` refuses each message twice before it takes it; `/slow/N` takes its time. A
fault makes all of them refuse or say nothing for a while.
"""

import hashlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.soak.history import Recorder

_REFUSALS = 2
_SLOW_SECONDS = 3.0
_HUNG_SECONDS = 15.0  # longer than the sender waits


class Receiver:
    def __init__(self, recorder: Recorder) -> None:
        self.mode = "well"  # or refusing, hung, down
        self.recorder = recorder
        self._tries: Counter[str] = Counter()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = receiver.recorder.now
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                code = receiver._answer(self.path, self.headers.get("webhook-id", ""))
                receiver._note(self.headers.get("webhook-id", ""), body, code, asked)
                if code is None:
                    self.close_connection = True
                    return
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing: the history has it."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A sender that was killed while it sent."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name="receiver")

    def start(self) -> "Receiver":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, behaviour: str, number: int) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{behaviour}/{number}"

    def _answer(self, path: str, message: str) -> int | None:
        """The status to answer with; None: the connection is closed without one."""
        if self.mode == "down":
            return None
        if self.mode == "hung":
            time.sleep(_HUNG_SECONDS)
            return None
        if self.mode == "refusing":
            return 500
        if path.startswith("/slow/"):
            time.sleep(_SLOW_SECONDS)
        self._tries[message] += 1
        return 500 if path.startswith("/failing/") and self._tries[message] <= _REFUSALS else 204

    def _note(self, message: str, body: bytes, code: int | None, asked: float) -> None:
        content = json.loads(body)
        data = content["data"]
        self.recorder.note(
            "message",
            data["id"],
            asked=asked,
            id=message,
            type=content["type"],
            status=data.get("status"),  # of a job; a flow has a `state`
            digest=hashlib.sha256(body).hexdigest()[:16],
            answered=code,
        )
