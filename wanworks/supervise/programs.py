"""The table of an installation's processes, and how each is started.

All settings are passed in the environment. Command lines contain no secrets, because every user can read them.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared.settings import Settings
from wanworks import config_file
from wanworks.errors import ConfigurationError
from wanworks.supervise.embedded_redis import EmbeddedRedis, answers, private_password
from wanworks.supervise.supervisor import Program

# Names for `--only`; a `gpu` process is one of gpu-0, gpu-1, ...
KINDS = ("web", "gpu", "io", "dispatcher", "beat", "flower", "hub", "redis")

_MODULES = {
    "web": ("-m", "api"),
    "gpu": ("-m", "workers.app", "gpu"),
    "io": ("-m", "workers.app", "io"),
    "dispatcher": ("-m", "scheduler.dispatcher"),
    "beat": ("-m", "scheduler.app"),
    "flower": ("-m", "celery", "-A", "scheduler.app", "flower"),
}
# Variables that huggingface_hub reads and wanworks does not pass on: logins, another hub, timeouts, debug output. An
# invalid timeout ends the process when it imports the library. docs/compatibility.md has the whole table.
_NOT_PASSED_ON = frozenset(
    {
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HUGGINGFACE_CO_STAGING", "HF_DEBUG",
        "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ENABLE_HF_TRANSFER", "HF_HUB_USER_AGENT_ORIGIN",
    }
)  # fmt: skip
# Workers stop first, so that they return their jobs while everything else still runs, together with the dispatcher, so
# that it sends no more messages; Redis stops last, so that no message is lost during the shutdown.
_STOP_TURNS = {"gpu": 0, "io": 0, "dispatcher": 0, "redis": 2}
_OTHER_STOP_TURN = 1
# No job needs these, so beside the API they leave the processor to what makes the installation ready.
_AFTER_READY = frozenset({"beat", "flower"})


@dataclass(frozen=True)
class NodeDevice:
    """One device, as reported by `python -m workers.devices.discovery`."""

    kind: str
    index: int
    uuid: str
    cuda_visible_devices: str

    @property
    def name(self) -> str:
        return f"gpu-{self.index}"

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.index}"

    def lock_key(self, settings: Settings) -> str:
        """Return the lock's name: unique worldwide for a GPU, unique for its node and installation for a CPU device."""
        return self.uuid or f"{settings.database}\n{settings.node}\n{self.label}"


def start_listing_devices(settings: Settings) -> "subprocess.Popen[str]":
    """Start listing the devices in a separate process; pass the result to `listed_devices`."""
    return subprocess.Popen(
        [sys.executable, "-m", "workers.devices.discovery", settings.devices],
        env=environment(settings),
        cwd=settings.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listed_devices(listing: "subprocess.Popen[str]") -> tuple[NodeDevice, ...]:
    """Return the devices. Raises ConfigurationError if `--devices` names a device that does not exist."""
    try:
        output, complaint = listing.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        listing.kill()
        listing.wait()
        raise ConfigurationError("the devices could not be listed within 60 s: the driver does not answer") from None
    if listing.returncode != 0:
        last = complaint.strip().splitlines()[-1:] or ["no reason given"]
        raise ConfigurationError(last[0])
    return tuple(
        NodeDevice(item["kind"], item["index"], item["uuid"], item["cuda_visible_devices"])
        for item in json.loads(output)
    )


def programs(
    settings: Settings, kinds: Sequence[str], devices: Sequence[NodeDevice], redis: EmbeddedRedis | None
) -> list[Program]:
    """Return the programs of `up`, in the order of `status`. `settings` must have the ports and the Redis URL."""
    chosen: list[Program] = []
    for kind in KINDS:
        if kind not in kinds:
            continue
        if kind == "gpu":
            threads = threads_per_cpu_device(devices)
            chosen += [_program(settings, kind, device, threads) for device in devices]
        elif kind == "hub":
            chosen.append(_hub_program(settings))
        elif kind != "redis":
            later = kind in _AFTER_READY and "web" in kinds
            chosen.append(replace(_program(settings, kind), after_ready=later))
    if redis is not None:
        chosen.append(_redis_program(settings, redis))
    return chosen


def threads_per_cpu_device(devices: Sequence[NodeDevice]) -> int:
    """Return the threads per CPU device: the cores of this process, divided among the devices."""
    count = sum(1 for device in devices if device.kind == "cpu")
    return max(1, len(os.sched_getaffinity(0)) // max(1, count))


def command(kind: str) -> tuple[str, ...]:
    """Return the command line of one process; everything else is in its environment."""
    return (sys.executable, *_MODULES[kind])


def environment(
    settings: Settings, kind: str = "", device: NodeDevice | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return a process's environment: the inherited one, every setting, and the variables of its kind."""
    result = {**inherited(environ), **_settings_environment(settings)}
    # They include the file's values: a file that changes meanwhile must not affect only some processes.
    result.pop(config_file.VARIABLE, None)
    if device is not None:
        result["WANWORKS_DEVICE"] = device.label
        result["CUDA_VISIBLE_DEVICES"] = device.cuda_visible_devices
        result["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if kind == "web":
        result["WANWORKS_FLOWER_PASSWORD"] = flower_password(settings)
    if kind == "flower":
        result |= _flower_environment(settings, environ)
    return result


def inherited(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment that every Python process of ours inherits, independently of the locale."""
    return {
        **{name: value for name, value in environ.items() if name not in _NOT_PASSED_ON},
        "PYTHONUNBUFFERED": "1",
        # A process must not import modules from the current directory.
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }


def flower_password(settings: Settings) -> str:
    """Return the configured password, else the one generated in the home.

    Raises ConfigurationError for one that Flower would misread: it splits at commas and compares bytes.
    """
    if settings.flower_password is None:
        return private_password(flower_password_file(settings.home))
    password = settings.flower_password.get_secret_value()
    if not password or "," in password or not password.isascii():
        raise ConfigurationError("WANWORKS_FLOWER_PASSWORD: must be ASCII, not empty, and without a comma")
    return password


def flower_password_file(home: Path) -> Path:
    return home / "flower-password"


def _program(settings: Settings, kind: str, device: NodeDevice | None = None, threads: int = 1) -> Program:
    name = device.name if device else kind
    env = environment(settings, kind, device)
    if device is not None and device.kind == "cpu":
        # If it is set but empty, OpenMP would use every core in each of the workers.
        env["OMP_NUM_THREADS"] = env.get("OMP_NUM_THREADS", "").strip() or str(threads)
    return Program(
        name=name,
        argv=command(kind),
        env=env,
        cwd=settings.home,
        log=settings.home / "logs" / f"{name}.log",
        start_turn=1,
        stop_turn=_STOP_TURNS.get(kind, _OTHER_STOP_TURN),
    )


def _hub_program(settings: Settings) -> Program:
    """Return the program of the demo's own hub, on the port in the hub URL."""
    port = str(urlsplit(settings.hub_url).port)
    return Program(
        name="hub",
        argv=(sys.executable, "-m", "wanworks.supervise.demo_hub", str(settings.home / "hub"), port),
        env={**inherited(), "CUDA_VISIBLE_DEVICES": ""},
        cwd=settings.home,
        log=settings.home / "logs" / "hub.log",
        start_turn=1,
        stop_turn=_OTHER_STOP_TURN,
    )


def _redis_program(settings: Settings, redis: EmbeddedRedis) -> Program:
    return Program(
        name="redis",
        argv=redis.argv,
        env=dict(os.environ),
        cwd=settings.home,
        log=settings.home / "logs" / "redis.log",
        start_turn=0,
        stop_turn=_STOP_TURNS["redis"],
        prepare=redis.prepare,
        repair=redis.set_data_aside,
        answers=lambda: answers(redis.url),
    )


def _settings_environment(settings: Settings) -> dict[str, str]:
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {
        f"WANWORKS_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }


def _flower_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return Flower's FLOWER_* variables. The operator's own are kept, except the password and the address."""
    password = flower_password(settings)
    wanted = {
        "FLOWER_PERSISTENT": "true",
        "FLOWER_DB": str(settings.home / "flower-state"),
        "FLOWER_STATE_SAVE_INTERVAL": "5000",  # milliseconds of state that a `kill -9` may lose
        "FLOWER_MAX_TASKS": "20000",
        "FLOWER_TASKS_COLUMNS": "name,uuid,state,args,received,runtime,worker",
        # stable over a restart, so that an open page keeps working
        "FLOWER_COOKIE_SECRET": hashlib.sha256(f"cookie {password}".encode()).hexdigest(),
    }
    return {
        **{name: value for name, value in wanted.items() if name not in environ},
        "FLOWER_BASIC_AUTH": f"{settings.flower_user}:{password}",
        "FLOWER_ADDRESS": settings.flower_host,
        # The API serves it under that path, and its pages contain absolute links.
        "FLOWER_URL_PREFIX": f"{settings.public_path}/flower".strip("/"),
        "FLOWER_PORT": str(settings.flower_port),
    }
