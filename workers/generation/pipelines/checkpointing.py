"""Take checkpoints of a running generation, and continue from one: safetensors and JSON, nothing that can run code.

A checkpoint holds what the next step needs: latents, the solver's history, the random state, the step cache. After a
step it is copied to host memory, and a thread writes it, so the device waits for the copy only. It names what made it
and is used only by a run that would compute the same values.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from shared.errors import Preempted
from shared.models import prepared
from shared.storage.disk import sync_file, sync_folder
from workers.devices.discovery import Device
from workers.generation import manifest
from workers.generation.context import GenerationContext
from workers.generation.pipelines.resuming import Denoising
from workers.generation.pipelines.weights import quantizing
from workers.generation.pipelines.weights.loading import LoadedModel
from workers.generation.pipelines.weights.loras import FoundLora

log = logging.getLogger(__name__)

_FORMAT = 1
# The device may wait for copies for this share of the time, whatever the interval.
_SHARE = 0.005
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Snapshot:
    """A generation after a step, in host memory."""

    steps: int
    content: dict[str, Any]


def taken(denoising: Denoising, random: torch.Tensor, caches: Any) -> Snapshot:
    """Copy what the next step needs to host memory."""
    content = {"latents": denoising.latents, "solver": denoising.state, "random": random, "caches": caches}
    return Snapshot(denoising.steps, _cloned(content))


class Keeper:
    """Takes the checkpoints of one run."""

    def __init__(self, context: GenerationContext, made_by: Mapping[str, Any]) -> None:
        assert context.checkpoint is not None
        self._context = context
        self._file = context.checkpoint
        self._made_by = json.loads(json.dumps(made_by, default=str))
        self._seconds = context.settings.checkpoint_seconds
        self._pause = 0.0  # that the last copy took
        self._last = time.monotonic()
        self._writing: threading.Thread | None = None
        self._closed = threading.Event()
        self._complained = False

    def restore(self, denoising: Denoising) -> bool:
        """Let the run continue from the job's checkpoint. Return False if there is none that fits."""
        found = read(self._file, self._made_by, self._context.job_id)
        if found is None:
            return False
        denoising.steps = found.steps
        denoising.latents, denoising.state = found.content["latents"], found.content["solver"]
        denoising.random, denoising.caches = found.content["random"], found.content["caches"]
        log.info("job %s: continues after step %d", self._context.job_id, found.steps)
        return True

    def step_ended(self, take: Callable[[], Snapshot]) -> None:
        """Take a checkpoint if one is due. Raises Preempted, after taking one, if the attempt is to yield."""
        if self._context.asked_to_yield():
            self._join()
            self._write(take())
            raise Preempted()
        idle = self._writing is None or not self._writing.is_alive()
        wait = max(self._seconds, self._pause / _SHARE)
        if self._seconds == 0 or not idle or time.monotonic() - self._last < wait:
            return
        began = time.monotonic()
        snapshot = take()
        self._last = time.monotonic()
        self._pause = self._last - began
        self._writing = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self._writing.start()

    def close(self) -> None:
        """Wait for the thread. What it has not written completely is dropped."""
        self._closed.set()
        self._join()

    def _join(self) -> None:
        if self._writing is not None:
            self._writing.join()

    def _write(self, snapshot: Snapshot) -> None:
        """Write the checkpoint. A disk without room, or any other error, costs the checkpoint, not the job."""
        job_id = self._context.job_id
        try:
            spare = int(self._context.settings.min_free_disk_mb * 1e6)
            if write(self._file, snapshot, self._made_by, job_id, self._context.attempt, spare, self._closed.is_set):
                self._context.checkpointed(snapshot.steps)
            elif not self._closed.is_set() and not self._complained:
                self._complained = True
                log.warning("job %s: the disk has no room for a checkpoint", job_id)
        except Exception as error:
            log.warning("job %s: no checkpoint could be written after step %d: %r", job_id, snapshot.steps, error)


def made_by(
    context: GenerationContext, model: LoadedModel, device: Device, profile: str, found: Sequence[FoundLora]
) -> dict[str, Any]:
    """Return everything that decides what the remaining steps compute."""
    params = json.dumps(context.params.model_dump(mode="json"), sort_keys=True)
    return {
        "asked": manifest.asked(context),
        "engine": manifest.ENGINE,
        "params": hashlib.sha256(params.encode()).hexdigest(),
        "recipe": prepared.recipe(quantizing.form_of(context.params.quantization) or "bf16"),
        "loras": [lora.described() for lora in found],
        "tier": model.entry.tiers.of(context.params.speed, device.kind).model_dump(mode="json"),
        "profile": profile,
        "layout": model.key.layout,
        "encode_tiled": model.encode_tiled,
        "dtype": str(model.dtype),
        "solver": model.solver,
        "boundary_ratio": context.entry.boundary_ratio,
        "device": {"kind": device.kind, "name": device.name, "count": 1},
    }


def write(
    file: Path,
    snapshot: Snapshot,
    made_by: Mapping[str, Any],
    job_id: str,
    attempt: int,
    spare_bytes: int,
    unwanted: Callable[[], bool] = lambda: False,
) -> bool:
    """Write the checkpoint completely or not at all. Return False if the disk lacks room or it is not wanted any more.

    `spare_bytes` stay free on the disk. Raises OSError and SafetensorError.
    """
    tensors: dict[str, torch.Tensor] = {}
    layout = _packed(snapshot.content, tensors)
    file.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    size = sum(tensor.nbytes for tensor in tensors.values())
    if shutil.disk_usage(file.parent.parent).free - size < spare_bytes:
        return False
    header = {
        "format": _FORMAT, "job_id": job_id, "steps": snapshot.steps, "made_by": made_by, "layout": layout,
        "digest": _digest(tensors),
    }  # fmt: skip
    file.parent.mkdir(mode=0o700, exist_ok=True)
    partial = file.parent / f"writing-{attempt}"
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        save_file(tensors, partial, metadata={"checkpoint": json.dumps(header)})
        os.chmod(partial, 0o600)
        sync_file(partial)
        if unwanted():
            return False
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(file.parent)
    sync_folder(file.parent.parent)
    return True


def read(file: Path, made_by: Mapping[str, Any], job_id: str) -> Snapshot | None:
    """Return the checkpoint; None if there is none, it is damaged, or something else made it."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {})["checkpoint"])
            if header["format"] != _FORMAT or header["job_id"] != job_id:
                raise ValueError("it is of another job or format")
            if header["made_by"] != made_by:
                known = header["made_by"]
                differing = sorted(name for name in {*known, *made_by} if known.get(name) != made_by.get(name))
                log.warning("job %s: its checkpoint is ignored, because these differ: %s", job_id, differing)
                return None
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if header["digest"] != _digest(tensors):
            raise ValueError("its checksum is wrong")
        return Snapshot(int(header["steps"]), _unpacked(header["layout"], tensors))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        log.warning("job %s: its checkpoint is ignored, because it cannot be used: %s", job_id, error)
        return None


def _cloned(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to(_HOST, copy=True).contiguous()
    if isinstance(value, list | tuple):
        return [_cloned(each) for each in value]
    if isinstance(value, dict):
        return {name: _cloned(each) for name, each in value.items()}
    return value


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return the value as JSON, with the tensors taken out into `tensors`."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list):
        return {"list": [_packed(each, tensors) for each in value]}
    if isinstance(value, dict):
        return {"dict": {name: _packed(each, tensors) for name, each in value.items()}}
    return {"value": value}


def _unpacked(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "list":
        return [_unpacked(each, tensors) for each in value]
    if kind == "dict":
        return {name: _unpacked(each, tensors) for name, each in value.items()}
    return value


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
