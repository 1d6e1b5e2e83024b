"""Sends the messages of jobs' webhooks, in the main process of every node's io worker.

Each delivery has its own slot, thread and time limit. A free slot takes the next due message at once, and one receiver
has a few slots at most, so a slow receiver delays only its own messages.
"""

import json
import logging
import threading
from collections import Counter

from shared import clock
from shared.cluster.nodes import webhook_secret
from shared.database.engine import Database
from shared.database.tables import WebhookMessage
from shared.errors import StoreFull, Unavailable
from shared.jobs.ending import webhooks
from shared.net import standard_webhooks
from shared.net.outbound import Allowed
from shared.net.standard_webhooks import NotTaken
from shared.public_path import with_public_path
from shared.settings import Settings
from shared.telemetry.loops import Loop, LoopReporter
from shared.telemetry.metrics import LOOP_ERRORS, MESSAGES, Meters

log = logging.getLogger("wanworks.webhooks")

_NAME = "webhooks"
_EVERY_SECONDS = 1.0
_SLOTS = 16
_SLOTS_PER_RECEIVER = 4
# For how long a claimed message belongs to this process: longer than a delivery and the writing of its outcome take.
_TAKEN_SECONDS = 3 * standard_webhooks.DELIVERY_SECONDS


class WebhookSender(Loop):
    """Takes due messages for the free slots. The end of a delivery wakes it."""

    def __init__(
        self, settings: Settings, database: Database, meters: Meters, reporter: LoopReporter | None = None
    ) -> None:
        super().__init__(_NAME, _EVERY_SECONDS, self._fill_slots, meters=meters, reporter=reporter)
        self._settings = settings
        self._database = database
        self._counts = meters
        self._allowed = Allowed.of(settings.outbound_allow)
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()  # running deliveries, by receiver
        self._secret: str | None = None

    def _fill_slots(self) -> bool:
        with self._lock:
            busy = +self._busy
        free = _SLOTS - busy.total()
        if free <= 0:
            return False
        taken = webhooks.take_due(self._database, _TAKEN_SECONDS, free, per_receiver=_SLOTS_PER_RECEIVER, busy=busy)
        for message in taken:
            with self._lock:
                self._busy[message.receiver] += 1
            try:
                threading.Thread(target=self._deliver, args=(message,), name="webhook", daemon=True).start()
            except RuntimeError:  # no thread can be started: the message falls due again
                self._release(message)
                raise
        return bool(taken)

    def _deliver(self, message: WebhookMessage) -> None:
        try:
            try:
                self._send(message)
            except NotTaken as error:
                self._failed(message, error.message, again=error.again)
            except (Unavailable, StoreFull):
                raise
            except Exception as error:
                log.exception("message %s of job %s could not be sent", message.id, message.job_id)
                self._counts.count(LOOP_ERRORS, _NAME)
                self._failed(message, f"could not be sent ({type(error).__name__})", again=True)
            else:
                self._counts.count(MESSAGES, "delivered")
                webhooks.delivered(self._database, message, clock.now())
        except (Unavailable, StoreFull) as error:
            log.warning("message %s: the outcome cannot be stored, it may be sent again: %s", message.id, error)
        except Exception:
            log.exception("message %s: the outcome cannot be stored, it may be sent again", message.id)
            self._counts.count(LOOP_ERRORS, _NAME)
        finally:
            self._release(message)

    def _send(self, message: WebhookMessage) -> None:
        if self._secret is None:
            self._secret = webhook_secret(self._settings, self._database)
        content = {
            "type": message.type,
            "timestamp": clock.iso(message.created_at),
            "data": with_public_path(message.data, self._settings.public_path),
        }
        body = json.dumps(content, separators=(",", ":")).encode()
        standard_webhooks.send(message.url, self._secret, message.id, body, clock.now(), self._allowed)

    def _failed(self, message: WebhookMessage, reason: str, *, again: bool) -> None:
        wait = standard_webhooks.wait_after(message.tries + 1) if again else None
        outcome = "it will not be sent again" if wait is None else f"it will be sent again in {wait} s"
        log.warning("message %s of job %s %s; %s", message.id, message.job_id, reason, outcome)
        self._counts.count(MESSAGES, "dead" if wait is None else "failed")
        webhooks.failed(self._database, message, reason, wait)

    def _release(self, message: WebhookMessage) -> None:
        with self._lock:
            self._busy[message.receiver] -= 1
        self.wake()
