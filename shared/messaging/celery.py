"""Bells: Celery messages that carry a job's id and nothing else, and the nudge that wakes the dispatcher.

SQL is the truth; a bell that is lost is rung again. So Celery is set up to be simple and honest rather than clever.
"""

import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from shared.errors import ConfigurationError
from shared.messaging.progress import FEED_CHANNEL, RestingRedis
from shared.settings import Settings
from shared.stored_names import WAKE_KEY

if TYPE_CHECKING:
    from celery import Celery

# Of a bell: raised when what follows its first two arguments, the job's id and the protocol, changes. A process reads
# and rings every protocol up to its own, so that old and new ones can run side by side.
PROTOCOL = 1
OLDEST_PROTOCOL = 1
EPOCH_KEY = "wanworks:epoch"  # gone with Redis's data: then every bell is rung again
TICKS_QUEUE = "ticks"
_CERTIFICATES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_QUEUE_CHANGED = '{"kind": "queue"}'
# A connection that is half open, or cut off, is noticed.
SOCKET_OPTIONS = {"socket_timeout": 10, "socket_connect_timeout": 5, "socket_keepalive": True}
# Longer than any job: a message must not come back while its job runs. Recovery comes from the lease.
_VISIBILITY_SECONDS = 48 * 3600


def device_queue(device_key: str) -> str:
    """``gpu.<node>.<index>``: each device has a queue of its own."""
    return f"gpu.{device_key.replace('/', '.')}"


def node_queue(node: str) -> str:
    return f"node.{node}"


def node_key(node: str) -> str:
    """What a bell for a node's own work names in place of a device."""
    return f"{node}/io"


def queue_of(key: str) -> str:
    """The queue of a device's key or a node's."""
    return node_queue(key.removesuffix("/io")) if key.endswith("/io") else device_queue(key)


def dispatch_message(job_id: str, reads: int) -> tuple[Any, ...]:
    """A bell's arguments, in the newest protocol that the ringer and the worker both know."""
    return (job_id, max(OLDEST_PROTOCOL, min(PROTOCOL, reads)))


def wake(client: RestingRedis) -> None:
    """Wakes the dispatcher, and those who watch the queue. Losing it loses nothing but a little time."""

    def question(redis: Any) -> None:
        pipe = redis.pipeline(transaction=False)
        pipe.lpush(WAKE_KEY, 1)
        pipe.ltrim(WAKE_KEY, 0, 0)
        pipe.publish(FEED_CHANNEL, _QUEUE_CHANGED)
        pipe.execute()

    client.ask(question)


def celery_app(settings: Settings, name: str) -> "Celery":
    """A Celery application on this installation's Redis. Raises ConfigurationError without one."""
    from celery import Celery

    if settings.redis is None:
        raise ConfigurationError("WANWORKS_REDIS_URL is not set: `wanworks up` sets it, or give the server's URL")
    app = Celery(name, broker=settings.redis)
    app.conf.update(
        broker_use_ssl=_tls(settings.redis),
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_send_sent_event=True,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_pool_start_method="spawn",
        worker_proc_alive_timeout=300.0,
        worker_hijack_root_logger=True,
        worker_enable_remote_control=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_SECONDS,
            **SOCKET_OPTIONS,
            "health_check_interval": 10,
        },
        enable_utc=True,
        timezone="UTC",
    )
    return app


def _tls(url: str) -> dict[str, Any] | None:
    """What Celery and Flower want to be told of TLS besides the URL; None without it."""
    address = urlsplit(url)
    if address.scheme != "rediss":
        return None
    said = {name: value for name, value in parse_qsl(address.query) if name.startswith("ssl_")}
    return {**said, "ssl_cert_reqs": _CERTIFICATES[said.get("ssl_cert_reqs", "required")]}
