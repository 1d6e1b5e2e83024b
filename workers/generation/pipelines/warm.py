"""The models that stay loaded on this process's device: loaded on demand and evicted when memory is needed."""

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shared.catalogue.entries import CatalogueEntry, same_weights
from shared.errors import ConfigurationError, OutOfMemory
from shared.models import memory_plan
from shared.models.memory_plan import LAYOUT_NAMES, Plan, Size
from shared.settings import Settings
from wanworks.requests import Quantization
from workers.devices import discovery
from workers.devices.discovery import Device
from workers.generation.memory_failures import MemoryFailures
from workers.generation.pipelines.memory.freeing import give_back
from workers.generation.pipelines.prompts import PromptCache
from workers.generation.pipelines.weights.loading import Key, LoadedModel, load

# How long to wait until another device of this host has released its loaded models, and how often to look.
_HOST_WAIT_SECONDS, _HOST_POLL_SECONDS = 60.0, 0.5


class WarmModels:
    """The models loaded on one device. Use from one thread only: two threads on one model's pipeline fail."""

    def __init__(self, device: Device, settings: Settings) -> None:
        if device.kind == "cuda" and torch.cuda.device_count() != 1:
            raise ConfigurationError(
                f"{device.label}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices; a worker "
                "must see only its own (CUDA_VISIBLE_DEVICES)"
            )
        self.device = device
        self.torch_device = torch.device(device.kind, 0) if device.kind == "cuda" else torch.device("cpu")
        self.prompts = PromptCache(settings.prompt_cache_mb * discovery.MB)
        self._settings = settings
        self._models: OrderedDict[Key, LoadedModel] = OrderedDict()  # least recently used first
        self._listing: tuple[dict[str, Any], ...] = ()  # replaced as a whole, so any thread may read it
        name = f"memory-failures-{device.label.replace(':', '-')}.json"
        self._failures = MemoryFailures(settings.home / name if settings.home.is_dir() else None)

    def choose(self, entry: CatalogueEntry, quantization: Quantization, size: Size, check: Callable[[], None]) -> Plan:
        """Return the plan to run under if no other model were loaded. Raises OutOfMemory, and what `check` raises.

        If the host has the memory but others use it, it is waited for: the dispatcher has asked another device to
        release it.
        A loaded layout is kept if it is large enough and does not stream: loading costs more than it would save.
        """
        options = self._options(entry, quantization, size)
        plan = memory_plan.choose(options, self._reachable(), self._reachable_host())
        whole_host = float(discovery.host_memory_mb() * discovery.MB)
        deadline = time.monotonic() + _HOST_WAIT_SECONDS
        while (
            plan is None and memory_plan.choose(options, self._reachable(), whole_host) and time.monotonic() < deadline
        ):
            check()
            time.sleep(_HOST_POLL_SECONDS)
            plan = memory_plan.choose(options, self._reachable(), self._reachable_host())
        if plan is None:
            least = min(options, key=lambda option: option.device)
            raise OutOfMemory(self._too_little(entry, size, least))
        loaded = {
            key.layout for key in self._models if (key.model_id, key.quantization) == (entry.weights_id, quantization)
        }
        kept = [
            option
            for option in options
            if option.layout in loaded and option.layout != "group" and option.decode_tiled == plan.decode_tiled
        ]
        return memory_plan.choose(kept, self._reachable(), self._reachable_host()) or plan

    def ran_out(self, entry: CatalogueEntry, quantization: Quantization, size: Size, plan: Plan) -> None:
        """Remember that the plan ran out of memory, although nothing else of ours was on the device."""
        self._failures.note(entry.model_id, quantization, plan, size, self._free_for_failures())

    def leaner(
        self, entry: CatalogueEntry, quantization: Quantization, size: Size, plan: Plan, *, tiles_help: bool
    ) -> Plan | None:
        """Return the plan to try after one that ran out of memory; None if none is left.

        `tiles_help`: whether encoding or decoding in tiles would have needed less where it ran out.
        """
        following = list(memory_plan.plans(entry, quantization, size, self.device.kind))
        following = following[following.index(plan) + 1 :] if plan in following else following
        options = [option for option in self._options(entry, quantization, size) if option in following]
        if self.device.kind == "cuda":
            leaner = [option for option in options if option.device < plan.device]
            options = [option for option in leaner if tiles_help or option.layout != plan.layout]
        return memory_plan.choose(options, self._reachable(), self._reachable_host())

    def get(
        self,
        entry: CatalogueEntry,
        snapshot: Path,
        quantization: Quantization,
        plan: Plan,
        check: Callable[[], None],
        loading: Callable[[], None],
    ) -> tuple[LoadedModel, bool]:
        """Return the model under that plan, and whether it was loaded; `loading` is called before it is loaded.

        Raises ModelUnavailable, and what `check` raises between two components.
        """
        key = Key(entry.weights_id, quantization, plan.layout)  # a preset runs what its base has loaded
        model = self._models.get(key)
        if model is not None and (model.snapshot != snapshot or not same_weights(model.entry, entry)):
            del self._models[key], model  # a different revision
            give_back()
            model = None
        was_loaded = model is not None
        if model is None:
            loading()
            # The same model under another layout is never of use beside this one.
            same = [other for other in self._models if other.model_id == key.model_id]
            for other in [other for other in same if other.quantization == key.quantization]:
                self._evict(other)
        else:
            self._models.move_to_end(key)
        self._make_room(plan, keep=key)
        self._list()
        if model is None:
            model = load(snapshot, entry, quantization, plan.layout, self.torch_device, check)
            self._models[key] = model
            self._list()
        model.entry = entry  # of this job: a preset runs the same weights and may have tiers of its own
        model.decode_tiled, model.encode_tiled = plan.decode_tiled, plan.encode_tiled
        return model, was_loaded

    def room(self, size: int, keep: LoadedModel) -> bool:
        """Evict other models until `size` bytes are free on the device. Return whether they are."""
        if self.device.kind == "cpu":
            return True
        others = [key for key in self._models if key != keep.key]
        while self._free() < size and others:
            self._evict(others.pop(0))
            self._list()
        return self._free() >= size

    def evict_others(self, model_id: str, quantization: Quantization) -> bool:
        """Evict all but this model under this quantization. Return whether there was another."""
        kept = (model_id, quantization)
        others = [key for key in self._models if (key.model_id, key.quantization) != kept]
        for key in others:
            self._evict(key)
        self._list()
        return bool(others)

    def loaded(self) -> list[dict[str, Any]]:
        """Return the loaded models, most recently used last: model_id, quantization, profile, memory_mb, host_mb.

        The sizes are those of the weights on the device and on its host, in 10^6 bytes.

        Any thread may call this.
        """
        return list(self._listing)

    def measure_peak(self) -> None:
        """Begin to measure the peak memory use."""
        if self.device.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(self.torch_device)

    def peak_mb(self) -> float | None:
        """Return the peak device memory since `measure_peak`, in MB; None on a CPU, where it is not measured."""
        if self.device.kind == "cpu":
            return None
        return round(torch.cuda.max_memory_allocated(self.torch_device) / discovery.MB, 1)

    def free(self) -> None:
        """Evict every model and free its memory."""
        self._models.clear()
        self.prompts.clear()
        self._list()
        give_back()

    def free_models(self) -> None:
        """Evict every model, but keep the prompts' embeddings, which are in host memory."""
        self._models.clear()
        self._list()
        give_back()

    def _list(self) -> None:
        self._listing = tuple(
            {
                "model_id": key.model_id,
                "quantization": key.quantization,
                "profile": key.profile,
                "memory_mb": model.memory_mb,
                "host_mb": round(model.placement.host_bytes / discovery.MB, 1),
            }
            for key, model in self._models.items()
        )

    def _options(self, entry: CatalogueEntry, quantization: Quantization, size: Size) -> list[Plan]:
        """Return the plans that the setting allows and that are not known to run out of memory."""
        setting = self._settings.memory_profile.removeprefix("int8-")
        found = list(memory_plan.plans(entry, quantization, size, self.device.kind))
        if setting != "auto":
            # A CPU has no layouts; what it can save is the whole decode.
            if self.device.kind == "cpu":
                found = [plan for plan in found if plan.decode_tiled or setting != "stream"]
            else:
                found = [plan for plan in found if LAYOUT_NAMES[plan.layout] == setting]
        free = self._free_for_failures()
        untried = [plan for plan in found if not self._failures.has(entry.model_id, quantization, plan, size, free)]
        # If all have failed, the leanest is tried again: what else took memory then may be gone.
        return untried or found[-1:]

    def _free_for_failures(self) -> float:
        return self._free() if self.device.kind == "cpu" else self._reachable()

    def _too_little(self, entry: CatalogueEntry, size: Size, least: Plan) -> str:
        what = f"{entry.model_id} at {size.width}x{size.height} with {size.frames} frames"
        need = f"the leanest layout, {least.name}, needs {least.device / 1e9:.1f} GB on the device"
        host = self._reachable_host()
        there = f"{self._reachable() / 1e9:.1f} GB are available"
        if host is not None and least.host > host:
            need += f" and {least.host / 1e9:.1f} GB of host memory"
            there += f", and {host / 1e9:.1f} GB of host memory"
        return f"{what} does not fit on {self.device.name}: {need}; {there}."

    def _evict(self, key: Key) -> None:
        del self._models[key]
        give_back()

    def _make_room(self, plan: Plan, keep: Key) -> None:
        """Evict the least recently used models, except `keep`, until the plan fits beside the rest."""
        others = [key for key in self._models if key != keep]
        while others and not self._fits(plan, keep, len(others)):
            self._evict(others.pop(0))

    def _fits(self, plan: Plan, keep: Key, others: int) -> bool:
        if self.device.kind == "cpu":
            return others < self._settings.warm_models
        kept = self._models.get(keep)
        here = kept.memory_mb * discovery.MB if kept is not None else 0.0
        on_host = kept.placement.host_bytes if kept is not None else 0
        enough_host = plan.host - on_host <= discovery.free_host_memory_mb() * discovery.MB
        return enough_host and plan.device - memory_plan.CONTEXT_BYTES - here <= self._free()

    def _free(self) -> float:
        """Return how many bytes this process could still allocate on the device."""
        if self.device.kind == "cpu":
            return float(discovery.free_memory_mb(self.device) * discovery.MB)
        free, _ = torch.cuda.mem_get_info(self.torch_device)
        cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return float(free + cached)

    def _reachable(self) -> float:
        """Return how many bytes a plan may take on the device with nothing loaded, CUDA's context included."""
        if self.device.kind == "cpu":
            return float(self.device.memory_mb * discovery.MB)
        return self._free() + torch.cuda.memory_allocated(self.torch_device) + memory_plan.CONTEXT_BYTES

    def _reachable_host(self) -> float | None:
        """Return how many bytes of host memory a plan may take with nothing loaded; None on a CPU device.

        There the host's memory is the device's, and what is free of it changes with every file that is read.
        """
        if self.device.kind == "cpu":
            return None
        ours = sum(model.placement.host_bytes for model in self._models.values())
        return float(discovery.free_host_memory_mb() * discovery.MB + ours + memory_plan.PROCESS_BYTES)
