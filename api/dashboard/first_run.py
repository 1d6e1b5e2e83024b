"""Tell a new installation what it can run: memory, disk and hub are checked before anything is downloaded.

The figures come from the memory plan that accepts and places jobs, and from the same derivation as docs/hardware.md.
"""

import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context
from api.dashboard.first_downloads import first_downloads
from api.http.responses import json_response
from api.operation import Answer, Operation
from api.schemas.dashboard.first_run import FirstRun, Hub, ModelFit
from shared.cluster import nodes
from shared.database.tables import Device
from shared.management import reductions
from shared.management.library import Library, ModelView
from shared.models import hardware_page, memory_plan
from shared.models.memory_plan import MB, Needs
from shared.states import REPLICA_READY, Scope
from wanworks.net import proxies
from wanworks.requests import Quantization

_GB = 1000 * MB
_ORDER: tuple[Quantization, ...] = ("none", "int8", "fp8")
_HUB_SECONDS = 3.0
_KEEP_SECONDS = 20.0
_KEEP_MISSING_SECONDS = 3.0  # that it does not answer: it may have been started a moment ago
_COPIES_SHARE = 0.5  # 16-bit copies of 32-bit files, where every file is one


def first_run(context: Context, request: Request, query: BaseModel) -> Response:
    """Return what the installation has and lacks. Raises DatabaseUnavailable."""
    library = context.library()
    hosts = {host.key: host for host in context.hosts.seen().devices}
    devices = [item.device for item in nodes.devices(context.database) if hosts[item.device.key].open] if hosts else []
    fits = [fit for view in library.models.values() if (fit := _best_fit(context, library, view, devices))]
    ready = [view for view in library.models.values() if view.availability in REPLICA_READY]
    runs = any(hosts[device.key].fits(_needs(view)) for view in ready for device in devices)
    why_not = None
    if not devices:
        why_not = "No device accepts jobs."
    elif not ready:
        why_not = "No node has the files of a model."
    elif not runs:
        why_not = "No model that is there fits a device that accepts jobs."
    roomy = [fit for fit in fits if fit.fits and fit.room != "short" and not library.models[fit.model_id].entry.extends]
    hub = _hub(context.settings.hub_url)
    best = max(roomy, key=lambda fit: (fit.download_gb, fit.model_id.startswith("T2V")), default=None)
    return json_response(
        FirstRun(
            ready=why_not is None,
            why_not=why_not,
            any_model=bool(ready),
            best=best.model_id if best is not None else None,
            models=fits,
            first_downloads=first_downloads(context, library, hub),
            hub=hub,
        )
    )


def _needs(view: ModelView, quantization: Quantization = "none") -> Needs:
    entry = view.entry
    defaults, image = entry.defaults, entry.image == "required"
    asked = reductions.Request(entry, defaults.resolution, defaults.frames, quantization, image)
    return Needs.read(reductions.needs(asked))


def _best_fit(context: Context, library: Library, view: ModelView, devices: Sequence[Device]) -> ModelFit | None:
    """Return how the model fits the device with the most memory. None: there is no device."""
    if not devices:
        return None
    entry = view.entry
    device = max(devices, key=lambda one: (one.kind == "cuda", one.memory_mb))
    rows = {node.name: node for node, _ in nodes.nodes(context.database)}
    node = rows.get(device.node)
    host_mb = node.memory_mb if node is not None else None
    size = memory_plan.default_size(entry)
    plan, chosen = None, None
    for quantization in _ORDER:
        if quantization not in entry.quantizations:
            continue
        if quantization == "fp8" and (device.compute_capability or 0) < memory_plan.FP8_CAPABILITY:
            continue
        options = memory_plan.plans(entry, quantization, size, "cuda" if device.kind == "cuda" else "cpu")
        plan = memory_plan.choose(options, device.memory_mb * MB, host_mb * MB if host_mb is not None else None)
        if plan is not None:
            chosen = quantization
            break
    measured = view.month.average_seconds
    card = hardware_page.card_of(device.name)
    derived = (
        hardware_page.derived_seconds(entry, entry.defaults.resolution, entry.defaults.frames, card)
        if card is not None and plan is not None
        else None
    )
    copies = entry.total_gb * _COPIES_SHARE if context.settings.prepare_downloads and not entry.extends else 0.0
    free = node.disk_free_mb / 1000 if node is not None and node.disk_free_mb is not None else None
    download = next((one.download for one in view.replicas if one.download is not None), None)
    going = download is not None and download.status in ("queued", "running", "paused")
    return ModelFit(
        model_id=entry.model_id,
        node=device.node,
        device=device.name,
        fits=plan is not None,
        quantization=chosen,
        layout=plan.name if plan is not None else None,
        device_gb=round(plan.device / _GB, 1) if plan is not None else None,
        host_gb=round(plan.host / _GB, 1) if plan is not None else None,
        seconds=measured if measured is not None else None if derived is None else round(derived, 1),
        basis="measured" if measured is not None else "none" if derived is None else "derived",
        download_gb=entry.total_gb,
        copies_gb=round(copies, 3),
        disk_free_gb=free,
        room=_room(entry.total_gb, copies, free),
        available=view.availability in REPLICA_READY,
        downloading=download.id if going and download is not None else None,
    )


def _room(files: float, copies: float, free: float | None) -> str:
    if free is None:
        return "unknown"
    if free < files:
        return "short"
    return "enough" if free >= files + copies else "without_copies"


class _HubCheck:
    """Asks the hub at most every some seconds; one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, str | None]] = {}

    def __call__(self, url: str) -> Hub:
        with self._lock:
            at, detail = self._known.get(url, (float("-inf"), None))
            if time.monotonic() - at > (_KEEP_SECONDS if detail is None else _KEEP_MISSING_SECONDS):
                detail = _ask(url)
                self._known[url] = (time.monotonic(), detail)
        return Hub(url=url, reachable=detail is None, detail=detail)


def _ask(url: str) -> str | None:
    """Return why the hub does not answer; None: it does, with whatever status."""
    try:
        with httpx.Client(transport=proxies.Transport(), timeout=_HUB_SECONDS) as client:
            client.head(url)
    except httpx.TimeoutException:
        return f"{urlsplit(url).netloc} did not answer within {_HUB_SECONDS:g} s."
    except (httpx.HTTPError, OSError) as error:
        return f"{urlsplit(url).netloc} cannot be reached: {str(error) or type(error).__name__}."
    return None


_hub = _HubCheck()


OPERATIONS = (
    Operation(
        "GET", "/api/v1/dashboard/first-run", first_run, "firstRun", "Get what the first video needs",
        answers=(Answer(200, "What there is, what fits, and what is missing.", FirstRun),), problems=(503,),
        tag="dashboard", scope=Scope.READ,
    ),
)  # fmt: skip
