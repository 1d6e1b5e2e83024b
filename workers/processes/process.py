"""The objects of one worker process: settings, identity, and the runner that its tasks use. Each is built once."""

import os
from collections.abc import Mapping
from functools import cache

from shared.catalogue import models
from shared.catalogue.job_types import BENCHMARK, CLEANUP, DOWNLOAD, GENERATION, INTEGRITY_CHECK, LORA_FETCH, PREPARE
from shared.catalogue.models import Catalogue
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs.attempts import Claimant
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings, load
from shared.storage.store import open_store
from shared.telemetry.loops import LoopReporter
from shared.telemetry.metrics import Meters
from workers.attempts.ahead import Ahead
from workers.attempts.handover import Handovers
from workers.attempts.runner import Handler, Runner
from workers.devices.discovery import Device, this_device


@cache
def settings() -> Settings:
    return load()


@cache
def database() -> Database:
    return Database(settings().database)


@cache
def catalogue() -> Catalogue:
    return models.load(settings().catalogue)


@cache
def device() -> Device:
    return this_device()


def role() -> str:
    """Return ``gpu`` for a device's worker, ``io`` for a node's, as the launcher set it in the environment."""
    return os.environ.get("WANWORKS_ROLE", "gpu")


def worker_name() -> str:
    """Return ``gpu-<index>@<node>`` or ``io@<node>``."""
    return f"gpu-{device().index}@{settings().node}" if role() == "gpu" else f"io@{settings().node}"


def device_id() -> str:
    """Return the GPU's UUID, or ``cpu-<index>``."""
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
    """Return the reporter of this process's background loops."""
    return LoopReporter(database(), worker_name(), settings().node)


@cache
def runner() -> Runner:
    """Return the runner. Raises StoreMismatch if this node does not find the installation's store."""
    by_type = handlers()
    if role() != "gpu":
        return Runner(settings(), database(), claimant(), by_type, meters())
    from workers.generation.job import GenerationHandler

    generations = by_type[GENERATION]
    assert isinstance(generations, GenerationHandler)
    return Runner(settings(), database(), claimant(), by_type, meters(), ahead(), generations.before_claim)


@cache
def ahead() -> Ahead:
    """Return the jobs that this device has begun before their messages came."""
    return Ahead(database(), claimant().device_key)


def handlers() -> Mapping[str, Handler]:
    """Return this worker's handlers by job type. A new job type is added here."""
    store = open_store(settings(), lambda: nodes.agreed(database(), "store"), create=False)
    redis = RestingRedis(settings().redis)
    progress = Progress(redis)
    if role() == "gpu":
        from workers.generation.benchmark import BenchmarkHandler
        from workers.generation.job import GenerationHandler

        name, passed_on = device().name, handovers() if settings().overlap_finishing else None
        generations = GenerationHandler(
            settings(), database(), catalogue(), store, progress, claimant(), name, passed_on, ahead(), meters()
        )
        benchmarks = BenchmarkHandler(settings(), database(), catalogue(), progress, device(), generations)
        return {GENERATION: generations, BENCHMARK: benchmarks}
    from workers.models.cleanup import CleanupHandler
    from workers.models.download import DownloadHandler
    from workers.models.integrity import IntegrityHandler
    from workers.models.lora_fetch import LoraFetchHandler
    from workers.models.prepare import PrepareHandler

    return {
        DOWNLOAD: DownloadHandler(settings(), database(), catalogue(), redis, meters()),
        INTEGRITY_CHECK: IntegrityHandler(settings(), database(), catalogue(), redis),
        CLEANUP: CleanupHandler(settings(), database(), catalogue(), store, redis),
        PREPARE: PrepareHandler(settings(), database(), catalogue(), redis),
        LORA_FETCH: LoraFetchHandler(settings(), database(), store, redis),
    }


@cache
def handovers() -> Handovers:
    """Return the folders of the attempts of this device that another process finishes."""
    return Handovers(settings().home, device().index)


def visible_devices() -> str:
    """Return CUDA_VISIBLE_DEVICES of this process, truncated to the length of its column."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")[:96]
