"""The models that stay loaded on this process's device: loaded on demand and evicted when memory is needed."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shared.catalogue.models import CatalogueEntry, MemoryProfile
from shared.errors import ConfigurationError
from shared.settings import Settings
from wanworks.requests import Quantization
from workers.devices import discovery
from workers.devices.discovery import Device
from workers.generation.pipelines import profiles
from workers.generation.pipelines.loading import Key, LoadedModel, load
from workers.generation.pipelines.memory import give_back
from workers.generation.pipelines.prompts import PromptCache


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

    def choose(self, entry: CatalogueEntry, quantization: Quantization) -> MemoryProfile:
        """Return the memory profile to use if no model were loaded. Raises OutOfMemory, ConfigurationError."""
        fitting = entry.hardware.fitting(quantization)
        return profiles.choose(fitting, self.device.kind, self._reachable_mb(), self._settings.memory_profile)

    def get(
        self,
        entry: CatalogueEntry,
        snapshot: Path,
        quantization: Quantization,
        profile: MemoryProfile,
        check: Callable[[], None],
        loading: Callable[[], None],
    ) -> tuple[LoadedModel, bool]:
        """Return the model under that profile, and whether it was loaded; `loading` is called before it is loaded.

        Raises ModelUnavailable, and what `check` raises between two components.
        """
        key = Key(entry.model_id, quantization, profile.name)
        model = self._models.get(key)
        if model is not None and (model.snapshot != snapshot or model.entry != entry):
            del self._models[key], model  # a different revision
            give_back()
            model = None
        if model is not None:
            self._models.move_to_end(key)
            self._make_room(profile, keep=key)
            self._list()
            return model, True
        loading()
        self._make_room(profile, keep=key)
        self._list()
        model = load(snapshot, entry, quantization, profile, self.torch_device, check)
        self._models[key] = model
        self._list()
        return model, False

    def loaded(self) -> list[dict[str, Any]]:
        """Return the loaded models, most recently used last: model_id, quantization, profile, memory_mb (10^6 bytes).

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

    def _list(self) -> None:
        self._listing = tuple(
            {
                "model_id": key.model_id,
                "quantization": key.quantization,
                "profile": key.profile,
                "memory_mb": model.memory_mb,
            }
            for key, model in self._models.items()
        )

    def _make_room(self, profile: MemoryProfile, keep: Key) -> None:
        """Evict the least recently used models, except `keep`, until `profile` fits beside the rest."""
        others = [key for key in self._models if key != keep]
        while others and not self._fits(profile, keep, len(others)):
            del self._models[others.pop(0)]
            give_back()

    def _fits(self, profile: MemoryProfile, keep: Key, others: int) -> bool:
        if self.device.kind == "cpu":
            return others < self._settings.warm_models
        here = self._models[keep].memory_mb if keep in self._models else 0.0
        return profile.min_vram_gb * 1000 - here <= self._free_mb()

    def _free_mb(self) -> float:
        """Return how much this process could still allocate, in MB."""
        if self.device.kind == "cpu":
            return discovery.free_memory_mb(self.device)
        free, _ = torch.cuda.mem_get_info(self.torch_device)
        cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
        return (free + cached) / discovery.MB

    def _reachable_mb(self) -> float:
        """Return how much this process could allocate with nothing loaded, in MB."""
        ours = torch.cuda.memory_allocated(self.torch_device) if self.device.kind == "cuda" else 0
        return self._free_mb() + ours / discovery.MB
