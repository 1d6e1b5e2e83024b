"""What one worker process stands on: who it is, and the runner that its tasks use. Built once, at the first need."""

import os
from functools import cache

from shared import catalogue, nodes
from shared.attempts import Claimant
from shared.database import Database
from shared.settings import Settings, load
from shared.store import open_store
from workers.devices import Device, this_device
from workers.runner import Runner


@cache
def settings() -> Settings:
    return load()


@cache
def database() -> Database:
    return Database(settings().database)


@cache
def device() -> Device:
    return this_device()


def worker_name() -> str:
    """``gpu-<index>@<node>``"""
    return f"gpu-{device().index}@{settings().node}"


def device_id() -> str:
    """The GPU's UUID, or ``cpu-<index>``."""
    return device().uuid or f"cpu-{device().index}"


@cache
def claimant() -> Claimant:
    node = settings().node
    return Claimant(node=node, worker=worker_name(), device=device_id(), device_key=f"{node}/{device().index}")


@cache
def runner() -> Runner:
    """Raises StoreMismatch where this node does not see the installation's store."""
    from workers import generation

    return Runner(
        settings=settings(),
        database=database(),
        catalogue=catalogue.load(settings().catalogue),
        store=open_store(settings().store_dir, lambda: nodes.agreed(database(), "store"), create=False),
        claimant=claimant(),
        device_name=device().name,
        handler=generation.generate,
        warm=generation.warm,
    )


def visible_devices() -> str:
    """CUDA_VISIBLE_DEVICES as this process sees it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")
