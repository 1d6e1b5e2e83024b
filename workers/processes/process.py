"""What one worker process stands on: who it is, and the runner that its tasks use. Built once, when first needed."""

import os
from collections.abc import Mapping
from functools import cache

from shared.catalogue import models as catalogue
from shared.catalogue.job_types import CLEANUP, DOWNLOAD, GENERATION, INTEGRITY_CHECK
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs.attempts import Claimant
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings, load
from shared.storage.store import open_store
from shared.telemetry.loops import LoopReporter
from shared.telemetry.metrics import Meters
from workers.attempts.runner import Runner, Work
from workers.devices.discovery import Device, this_device


@cache
def settings() -> Settings:
    return load()


@cache
def database() -> Database:
    return Database(settings().database)


@cache
def device() -> Device:
    return this_device()


def role() -> str:
    """``gpu`` for a device's worker, ``io`` for a node's. The launcher says which, in the environment."""
    return os.environ.get("WANWORKS_ROLE", "gpu")


def worker_name() -> str:
    """``gpu-<index>@<node>`` or ``io@<node>``"""
    return f"gpu-{device().index}@{settings().node}" if role() == "gpu" else f"io@{settings().node}"


def device_id() -> str:
    """The GPU's UUID, or ``cpu-<index>``."""
    return device().uuid or f"cpu-{device().index}"


@cache
def claimant() -> Claimant:
    node = settings().node
    if role() == "io":
        return Claimant(node, worker_name(), device=None, device_key=celery.node_key(node), pid=os.getpid())
    key = f"{node}/{device().index}"
    return Claimant(node, worker_name(), device=device_id(), device_key=key, pid=os.getpid())


@cache
def meters() -> Meters:
    return Meters(RestingRedis(settings().redis))


@cache
def reporter() -> LoopReporter:
    """Of this process's background loops."""
    return LoopReporter(database(), worker_name(), settings().node)


@cache
def runner() -> Runner:
    """Raises StoreMismatch where this node does not see the installation's store."""
    return Runner(settings(), database(), claimant(), works(), meters())


def works() -> Mapping[str, Work]:
    """What this worker can do, by job type. A new job type is one row here."""
    store = open_store(settings(), lambda: nodes.agreed(database(), "store"), create=False)
    models = catalogue.load(settings().catalogue)
    redis = RestingRedis(settings().redis)
    progress = Progress(redis)
    if role() == "gpu":
        from workers.generation.job import GenerationHandler

        name = device().name
        return {GENERATION: GenerationHandler(settings(), database(), models, store, progress, claimant(), name)}
    from workers.models.cleanup import CleanupHandler
    from workers.models.download import DownloadHandler
    from workers.models.integrity import IntegrityHandler

    return {
        DOWNLOAD: DownloadHandler(settings(), database(), models, redis, meters()),
        INTEGRITY_CHECK: IntegrityHandler(settings(), database(), models, redis),
        CLEANUP: CleanupHandler(settings(), database(), models, store, redis),
    }


def visible_devices() -> str:
    """CUDA_VISIBLE_DEVICES as this process sees it, as far as its column holds it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")[:96]
