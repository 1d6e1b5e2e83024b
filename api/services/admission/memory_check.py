"""Check whether a registered device has the memory for a generation, and describe what is missing."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from api.services.hosts import Host, Hosts
from api.services.waiting import lacks_fp8
from shared.catalogue.job_types import GenerationParams
from shared.catalogue.models import Catalogue, CatalogueEntry, parse_resolution
from shared.catalogue.resolving import resolve
from shared.errors import InvalidField, NotEnoughMemory
from shared.management import reductions
from shared.management.reductions import Request
from shared.models.loras import folder as lora_folder
from shared.models.memory_plan import Needs
from wanworks.requests import GenerationRequest, Quantization

_MOST_REMEMBERED = 4096
_BESIDE_THE_ENTRY = tuple(field.name for field in fields(Request) if field.name != "entry")


@dataclass(frozen=True)
class _Missing:
    """What a device lacks for a request, in MB (10^6 bytes)."""

    device: str
    device_memory_mb: int
    host_memory_mb: int


class MemoryCheck:
    def __init__(self, catalogue: Catalogue, hosts: Hosts, loras_dir: Path, *, refuses: bool) -> None:
        """``refuses``: whether a job that fits no registered device is refused; otherwise it waits for one."""
        self._catalogue = catalogue
        self._loras_dir = loras_dir
        self._hosts = hosts
        self._refuses = refuses
        self._known: dict[Hashable, str] = {}  # needs of recent requests, since most are of few sizes

    def is_quick(self, model_id: str, quantization: Quantization) -> bool:
        """Return whether `check` needs no query: the devices were read just now, and one fits whatever is requested."""
        if not self._refuses:
            return True
        if not self._hosts.is_fresh:
            return False
        devices = self._hosts.seen().devices
        named = (entry for entry in self._catalogue.entries if entry.model_id == model_id)
        return not devices or any(_fits(devices, self._largest_needs(entry, quantization)) for entry in named)

    def check(self, request: GenerationRequest | None, params: GenerationParams) -> str:
        """Return what the generation needs, as `Needs.read` reads it.

        Raises NotEnoughMemory if devices are registered and none of them can ever run it. See `Host`. Raises
        InvalidField if none of them computes in the requested quantization, or no node has as many devices of
        one kind as the job wants.

        `request`: as sent, to describe alternatives that can be sent; None: made from the parameters.
        """
        if self._refuses and params.devices_per_job > 1:
            self._check_team(params)
        wanted = self.needs(params)
        if self._refuses and self._fits_here(wanted, params.devices_per_job) is False:
            needs, hosts = Needs.read(wanted), self._hosts.seen().devices
            if not any(needs.runs_on(host.capability) for host in hosts):
                raise InvalidField.of("quantization", lacks_fp8(len(hosts)), "not_supported")
            raise self._refusal(request, params)
        return wanted

    def fits(self, params: GenerationParams) -> bool | None:
        """Return whether a registered device has the memory; None if no device is registered."""
        return self._fits_here(self.needs(params), params.devices_per_job)

    def _fits_here(self, needs: str, count: int) -> bool | None:
        hosts = self._hosts.seen().devices
        if hosts and not _fits(hosts, needs, count):
            hosts = self._hosts.seen(again=True).devices  # one may have registered just now
        return _fits(hosts, needs, count) if hosts else None

    def _check_team(self, params: GenerationParams) -> None:
        hosts = self._hosts.seen().devices
        if not hosts or _largest_team(hosts) >= params.devices_per_job:
            return
        largest = _largest_team(self._hosts.seen(again=True).devices)
        if largest >= params.devices_per_job:
            return
        allowed = [count for count in self._catalogue.get(params.model_id).team_sizes if count <= largest]
        raise InvalidField.of(
            "devices_per_job",
            f"{params.devices_per_job} is not possible here: no node has more than {largest} "
            f"{'device' if largest == 1 else 'devices'} of one kind; allowed: {', '.join(map(str, allowed))}. Ask for "
            "fewer, or add devices to a node",
            "not_supported",
        )

    def reduced(self, params: GenerationParams) -> Request | None:
        """Return the smallest reduction of the same model that fits; None if there is none."""
        hosts, count = self._hosts.seen().devices, params.devices_per_job
        if not hosts:
            return None
        return next(
            iter(
                reductions.of_the_same_model(
                    self._wanted(params), lambda one: _fits(hosts, reductions.needs(one), count)
                )
            ),
            None,
        )

    def _wanted(self, params: GenerationParams) -> Request:
        entry = self._catalogue.get(params.model_id)
        return _request(entry, params, lora_folder.bytes_of(self._loras_dir, params.loras, params.lora_files))

    def needs(self, params: GenerationParams) -> str:
        """Return what the generation needs, as `Needs.read` reads it."""
        wanted = self._wanted(params)
        # All but the entry, which the model names.
        key = (params.model_id, *(getattr(wanted, field) for field in _BESIDE_THE_ENTRY))
        return self._remembered(key, lambda: reductions.needs(wanted))

    def _largest_needs(self, entry: CatalogueEntry, quantization: Quantization) -> str:
        return self._remembered((entry.model_id, quantization), lambda: _largest(entry, quantization))

    def _remembered(self, key: Hashable, compute: Callable[[], str]) -> str:
        known = self._known.get(key)
        if known is None:
            known = compute()
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = known
        return known

    def _refusal(self, request: GenerationRequest | None, params: GenerationParams) -> NotEnoughMemory:
        wanted, hosts, count = self._wanted(params), self._hosts.seen().devices, params.devices_per_job
        needs = Needs.read(reductions.needs(wanted))
        able = [host for host in hosts if needs.runs_on(host.capability)]
        missing = sorted(
            (_Missing(host.key, *needs.missing_mb(*_share(host, count))) for host in able),
            key=lambda one: one.device_memory_mb + one.host_memory_mb,
        )
        nearest = missing[0]
        amounts = ((nearest.device_memory_mb, "device memory"), (nearest.host_memory_mb, "host memory"))
        parts = [f"{amount_mb / 1000:.1f} GB of {what}" for amount_mb, what in amounts if amount_mb]
        team = f", {count} of which need it together" if count > 1 else ""
        detail = (
            f"{params.model_id} at {params.resolution} with {params.frames} frames, quantization "
            f"{params.quantization}, fits none of the {len(hosts)} registered devices{team}. Closest is "
            f"{nearest.device}, where {' and '.join(parts)} {'are' if len(parts) > 1 else 'is'} missing."
        )
        found = [
            made
            for one in reductions.alternatives(
                wanted, self._catalogue.entries, lambda one: _fits(hosts, reductions.needs(one), count)
            )
            if (made := self._alternative(request, params, one)) is not None
        ]
        detail += (
            " `alternatives` lists requests that fit."
            if found
            else " No smaller size, shorter video, int8 weights or other model of the catalogue would fit either: "
            "add a device with more memory, or set admission=any to accept the job and let it wait for one."
        )
        return NotEnoughMemory(detail, missing=[asdict(one) for one in missing[:20]], alternatives=found)

    def _alternative(
        self, request: GenerationRequest | None, params: GenerationParams, other: Request
    ) -> dict[str, Any] | None:
        """Return the alternative as a request; None if the other model refuses one of the request's other fields."""
        # Under `auto`, requests name the size whose area is meant.
        asked = params.asked_resolution or params.resolution
        resolution = asked if other.resolution == params.resolution else other.resolution
        values = {
            "model_id": (params.model_id, other.entry.model_id),
            "resolution": (asked, resolution),
            "frames": (params.frames, other.frames),
            "quantization": (params.quantization, other.quantization),
            "speed": (params.speed, other.speed),
        }
        changes = {name: new for name, (old, new) in values.items() if old != new}
        sent = (
            request.model_dump(mode="json", exclude_unset=True, exclude={"image", "last_image"})
            if request is not None
            else {}
        )
        if request is None:
            names = ("model_id", "prompt", "negative_prompt", "resolution", "frames", "fps", "steps", "quantization")
            sent = {name: getattr(params, name) for name in names if getattr(params, name) is not None}
        # All of them, because what the request leaves out would take another model's defaults.
        body = {**sent, **{name: new for name, (_, new) in values.items()}}
        try:
            resolve(GenerationRequest.model_validate(body), other.entry, params.image, last_image=params.last_image)
        except (InvalidField, ValueError):
            return None
        return {"request": body, "changes": changes}


def needs_of(entry: CatalogueEntry, params: GenerationParams) -> str:
    """Return what a generation without LoRAs of its own needs, as `Needs.read` reads it."""
    return reductions.needs(_request(entry, params, 0))


def _request(entry: CatalogueEntry, params: GenerationParams, loras: int) -> Request:
    image = params.image is not None
    return Request(entry, params.resolution, params.frames, params.quantization, image, loras, params.speed)


def _fits(hosts: tuple[Host, ...], needs: str, count: int = 1) -> bool:
    """Return whether one of the devices, or `count` of them on one host, have the memory."""
    read = Needs.read(needs)
    return any(read.host_mb(*_share(host, count), host.capability) is not None for host in hosts)


def _share(host: Host, count: int) -> tuple[str, int, int | None]:
    """Return the kind of the device, its memory and its host's for each of `count` devices that have all weights."""
    memory = host.memory_mb // count if host.kind == "cpu" else host.memory_mb
    return host.kind, memory, None if host.host_mb is None else host.host_mb // count


def _largest_team(hosts: tuple[Host, ...]) -> int:
    """Return the most devices of one kind that one node has."""
    return max(Counter((host.node, host.kind, host.memory_mb) for host in hosts).values(), default=0)


def _largest(entry: CatalogueEntry, quantization: Quantization) -> str:
    """Return the needs of the largest request that the model accepts, in 16 bits or in fp8, which needs more."""
    of: Quantization = "fp8" if quantization == "fp8" else "none"
    largest = max(entry.resolutions, key=lambda text: parse_resolution(text)[0] * parse_resolution(text)[1])
    return reductions.needs(Request(entry, largest, entry.max_frames, of, entry.image != "refused"))
