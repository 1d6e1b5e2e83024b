"""Dispatch messages, which are Celery messages with a job's id, and the wake-up of the dispatcher.

The database decides about jobs, and a lost message is sent again, so Celery is configured for simplicity.
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

# The version of dispatch messages. Raise it when arguments after the job's id and the protocol change. A process reads
# and sends every protocol up to its own, so that old and new processes can run together.
PROTOCOL = 1
OLDEST_PROTOCOL = 1
EPOCH_KEY = "wanworks:epoch"  # lost with Redis's data: then all messages are sent again
TICKS_QUEUE = "ticks"
_CERTIFICATES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_QUEUE_CHANGED = '{"kind": "queue"}'
# These detect connections that are half open or cut off.
SOCKET_OPTIONS = {"socket_timeout": 10, "socket_connect_timeout": 5, "socket_keepalive": True}
# Longer than any job, so that no message is redelivered while its job runs. The lease provides recovery.
_VISIBILITY_SECONDS = 48 * 3600


def device_queue(device_key: str) -> str:
    """Return the device's queue, ``gpu.<node>.<index>``."""
    return f"gpu.{device_key.replace('/', '.')}"


def node_queue(node: str) -> str:
    return f"node.{node}"


def node_key(node: str) -> str:
    """Return the key that dispatches to a node's io worker use instead of a device key."""
    return f"{node}/io"


def queue_of(key: str) -> str:
    """Return the queue for the key of a device or node."""
    return node_queue(key.removesuffix("/io")) if key.endswith("/io") else device_queue(key)


def dispatch_message(job_id: str, reads: int) -> tuple[Any, ...]:
    """Return a message's arguments, in the newest protocol that both this process and the worker know."""
    return (job_id, max(OLDEST_PROTOCOL, min(PROTOCOL, reads)))


def wake(client: RestingRedis) -> None:
    """Wake the dispatcher, and notify watchers of the queue. A lost wake-up costs at most one period of waiting."""

    def send(redis: Any) -> None:
        pipe = redis.pipeline(transaction=False)
        pipe.lpush(WAKE_KEY, 1)
        pipe.ltrim(WAKE_KEY, 0, 0)
        pipe.publish(FEED_CHANNEL, _QUEUE_CHANGED)
        pipe.execute()

    client.ask(send)


def celery_app(settings: Settings, name: str) -> "Celery":
    """Return a Celery application that uses this installation's Redis. Raises ConfigurationError without one."""
    from celery import Celery

    if settings.redis is None:
        raise ConfigurationError(
            "WANWORKS_REDIS_URL is not set: start with `wanworks up`, which sets it, or set it to the URL of a Redis"
        )
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
    """Return the TLS options that Celery and Flower need besides the URL; None without TLS."""
    address = urlsplit(url)
    if address.scheme != "rediss":
        return None
    options = {name: value for name, value in parse_qsl(address.query) if name.startswith("ssl_")}
    return {**options, "ssl_cert_reqs": _CERTIFICATES[options.get("ssl_cert_reqs", "required")]}
