"""Sends what webhooks are to be told. On every node's io worker, in its main process: a message goes by one of them.

A receiver that is slow holds up only its own message.
"""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from shared import clock, standard_webhooks, webhooks
from shared.database import Database
from shared.errors import StoreFull, Unavailable
from shared.meters import MESSAGES, Meters
from shared.nodes import webhook_secret
from shared.outbound import Allowed
from shared.settings import Settings
from shared.standard_webhooks import NotTaken
from shared.tables import WebhookMessage

log = logging.getLogger("wanworks.webhooks")

_LOOK_SECONDS = 1.0
_AT_ONCE = 8
# Longer than a try takes: ten seconds to connect, and ten for the answer. Until then it is this process's.
_TAKEN_SECONDS = 30.0


class WebhookSender(threading.Thread):
    def __init__(self, settings: Settings, database: Database, meters: Meters) -> None:
        super().__init__(name="webhooks", daemon=True)
        self._settings = settings
        self._database = database
        self._meters = meters
        self._allowed = Allowed.of(settings.outbound_allow)
        self._stopping = threading.Event()

    def run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE, "webhook") as senders:
            while not self._stopping.is_set():
                try:
                    taken = webhooks.take_due(self._database, _TAKEN_SECONDS, _AT_ONCE)
                except (Unavailable, StoreFull) as error:
                    log.warning("database: %s", error)
                    taken = []
                for result in [senders.submit(self._send, message) for message in taken]:
                    result.result()
                if not taken:
                    self._stopping.wait(_LOOK_SECONDS)

    def stop(self) -> None:
        self._stopping.set()

    def _send(self, message: WebhookMessage) -> None:
        now = clock.now()
        content = {"type": message.type, "timestamp": clock.iso(message.created_at), "data": message.data}
        body = json.dumps(content, separators=(",", ":")).encode()
        try:
            try:
                secret = webhook_secret(self._settings, self._database)
                standard_webhooks.send(message.url, secret, message.id, body, now, self._allowed)
            except NotTaken as error:
                wait = standard_webhooks.wait_after(message.tries + 1) if error.again else None
                words = "it is given up" if wait is None else f"it is sent again in {wait} s"
                log.warning("message %s of job %s %s; %s", message.id, message.job_id, error.message, words)
                self._meters.count(MESSAGES, "dead" if wait is None else "failed")
                webhooks.failed(self._database, message.id, error.message, wait)
            else:
                self._meters.count(MESSAGES, "delivered")
                webhooks.delivered(self._database, message.id, now)
        except (Unavailable, StoreFull) as error:
            log.warning("message %s: what became of it cannot be written, it may be sent again: %s", message.id, error)
