"""Apply the strategies of a request's `fallback` list if its model is not ready.

The first applicable strategy, in the order of the list, is applied, and its changes are recorded in the job.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from api.services.admission import fallback_facts
from api.services.admission.memory_check import MemoryCheck
from shared.catalogue.job_types import (
    DOWNLOAD,
    FRAME_GROUP,
    AppliedFallback,
    Change,
    DownloadParams,
    GenerationParams,
)
from shared.catalogue.models import Catalogue, parse_resolution
from shared.catalogue.picture_fit import follow_picture
from shared.catalogue.resolving import resolve, shares_are_equal
from shared.database.engine import Database
from shared.errors import Conflict, InvalidField
from shared.jobs import accepting, download_control
from shared.jobs.accepting import Accepted, NewJob
from shared.management.fallback import alternatives_to
from shared.management.fallback_types import ModelFacts, Strategy, Wish
from shared.management.library import Library
from shared.settings import Settings
from shared.states import Priority
from wanworks.requests import GenerationRequest

# The pairs that `hybrid_approach` tries: the first pair whose strategies both apply.
_HYBRIDS = (
    (Strategy.ALTERNATIVE_MODEL, Strategy.DOWNLOAD_AND_RETRY),
    (Strategy.REDUCE_REQUIREMENTS, Strategy.DOWNLOAD_AND_RETRY),
    (Strategy.REDUCE_REQUIREMENTS, Strategy.QUEUE_AND_WAIT),
)
_SHARED_SECONDS = 1.0
_COMPARED = ("model_id", "resolution", "frames", "fps", "steps", "quantization", "speed", "devices_per_job")


@dataclass(frozen=True)
class _Outcome:
    params: GenerationParams
    message: str
    mock: bool = False
    job_id: str | None = None


@dataclass(frozen=True)
class _Case:
    """A request whose model is not ready."""

    request: GenerationRequest
    params: GenerationParams
    priority: Priority
    library: Library
    models: dict[str, ModelFacts]
    permits: Callable[[GenerationParams], bool]
    dry_run: bool

    @property
    def wanted(self) -> ModelFacts:
        return self.models[self.params.model_id]


@dataclass(frozen=True)
class _Facts:
    """What was read of the library, and when, by the monotonic clock."""

    library: Library
    models: dict[str, ModelFacts]
    read_at: float


class Fallbacks:
    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        database: Database,
        library: Callable[[], Library],
        memory: MemoryCheck,
    ) -> None:
        self._memory = memory
        self._settings = settings
        self._catalogue = catalogue
        self._database = database
        self._library = library
        self._shared = threading.local()

    @contextmanager
    def for_many(self) -> Iterator[None]:
        """Let the calls of this thread share what they read of the library, for a second each time it is read."""
        self._shared.facts = None
        try:
            yield
        finally:
            del self._shared.facts

    def _facts(self) -> tuple[Library, dict[str, ModelFacts]]:
        shared: _Facts | None = getattr(self._shared, "facts", None)
        if shared is None or time.monotonic() - shared.read_at > _SHARED_SECONDS:
            library = self._library()
            shared = _Facts(library, fallback_facts.facts(self._settings, library), time.monotonic())
            if hasattr(self._shared, "facts"):
                self._shared.facts = shared
        return shared.library, shared.models

    def apply(
        self,
        request: GenerationRequest | None,
        params: GenerationParams,
        priority: Priority,
        permits: Callable[[GenerationParams], bool],
        *,
        dry_run: bool = False,
    ) -> tuple[GenerationParams, bool]:
        """Return the parameters to run, and whether to create placeholder output. May start a download.

        `request` None: the request is not known any more (a retry), so its parameters are used. `permits`: whether the
        caller's key allows other parameters. `dry_run`: start no download. Raises DatabaseUnavailable.
        """
        if not params.fallback:
            return params, False
        # Of an earlier attempt only changed parameters are kept; waiting and placeholder output are decided again.
        earlier = tuple(applied for applied in params.fallback_applied if applied.changes)
        params = params.model_copy(update={"fallback_applied": earlier})
        library, models = self._facts()
        wanted = models[params.model_id]
        if wanted.ready and self._memory.fits(params) is not False:
            return params, False
        case = _Case(request or self._request_of(params), params, priority, library, models, permits, dry_run)
        for strategy in map(Strategy, params.fallback):
            outcome = self._try(strategy, case)
            if outcome is not None:
                applied = AppliedFallback(
                    strategy=strategy.value,
                    message=outcome.message,
                    changes=_changes(params, outcome.params),
                    job_id=outcome.job_id,
                )
                applied_fallbacks = (*earlier, applied)
                return outcome.params.model_copy(update={"fallback_applied": applied_fallbacks}), outcome.mock
        return params, False

    def _try(self, strategy: Strategy, case: _Case) -> _Outcome | None:
        """Apply one strategy. Returns None if it does not apply."""
        match strategy:
            case Strategy.MOCK_GENERATION:
                return _Outcome(case.params, "Labelled placeholder output is created instead of a video", mock=True)
            case Strategy.QUEUE_AND_WAIT:
                return _Outcome(case.params, f"The job waits until {case.params.model_id} is ready")
            case Strategy.ALTERNATIVE_MODEL:
                return self._alternative(case)
            case Strategy.REDUCE_REQUIREMENTS:
                return self._reduced(case)
            case Strategy.DOWNLOAD_AND_RETRY:
                return self._download(case)
            case Strategy.HYBRID_APPROACH:
                return self._hybrid(case)

    def _alternative(self, case: _Case) -> _Outcome | None:
        """Use the most compatible model that is ready and supports the whole request."""
        wish = Wish(case.params.model_id, resolution=case.params.resolution)
        for other in alternatives_to(wish, case.models):
            if not case.models[other.model_id].usable:
                continue
            request = case.request.model_copy(update={"model_id": other.model_id})
            try:
                entry = self._catalogue.get(other.model_id)
                params = resolve(
                    request,
                    entry,
                    case.params.image,
                    case.params.speed,
                    last_image=case.params.last_image,
                    picture=_picture(case.params),
                )
            except InvalidField:
                continue
            if not case.permits(params) or self._memory.fits(params) is False:
                continue
            seed = {"seed": case.params.seed}  # keep the seed that was chosen for the request
            return _Outcome(params.model_copy(update=seed), f"{other.model_id} is used instead. {other.reason}")
        return None

    def _reduced(self, case: _Case) -> _Outcome | None:
        if self._memory.fits(case.params) is not False or (less := self._memory.reduced(case.params)) is None:
            return None
        width, height = parse_resolution(less.resolution)
        changed: dict[str, Any] = {}
        if case.params.asked_resolution is not None and less.resolution != case.params.resolution:
            changed["asked_resolution"] = less.resolution
            width, height = follow_picture(less.entry, less.resolution, (case.params.width, case.params.height))
        changed |= {
            "quantization": less.quantization,
            "speed": less.speed,
            "width": width,
            "height": height,
            "frames": less.frames,
        }
        if case.params.last_image is not None:  # the frames that are computed anyway
            changed["frames"] = -(-(less.frames - 1) // FRAME_GROUP) * FRAME_GROUP + 1
        if not shares_are_equal(less.entry, f"{width}x{height}", less.frames, case.params.devices_per_job):
            changed["devices_per_job"] = 1
        return _Outcome(
            case.params.model_copy(update=changed), "No device has the memory for the request; this much fits"
        )

    def _download(self, case: _Case) -> _Outcome | None:
        model_id = case.params.model_id
        under_way = self._active(model_id)
        if under_way is not None:
            return _Outcome(case.params, f"The job waits for the download of {model_id}", job_id=under_way)
        node = fallback_facts.room_for(self._settings, case.library, case.library.models[model_id])
        if case.wanted.ready or node is None:
            return None
        if case.dry_run:
            return _Outcome(case.params, f"The download of {model_id} to node {node.name} would be started")
        new = NewJob(
            DOWNLOAD,
            DownloadParams(model_id=model_id, node=node.name),
            case.priority,
            metadata={"started_by": "fallback"},
            max_failures=self._settings.max_failures,
        )
        (made,) = accepting.accept(self._database, [new])
        if isinstance(made, Conflict):  # started concurrently by another request
            return _Outcome(case.params, f"The job waits for the download of {model_id}", job_id=self._active(model_id))
        started = made.job.id if isinstance(made, Accepted) else None
        return _Outcome(case.params, f"The download of {model_id} to node {node.name} was started", job_id=started)

    def _hybrid(self, case: _Case) -> _Outcome | None:
        for first, second in _HYBRIDS:
            one = self._try(first, case)
            other = self._try(second, case) if one is not None else None
            if one is not None and other is not None:
                return _Outcome(one.params, f"{one.message}. {other.message}", job_id=other.job_id)
        return None

    def _active(self, model_id: str) -> str | None:
        found = download_control.active(self._database, model_id)
        return found[0].id if found else None

    def _request_of(self, params: GenerationParams) -> GenerationRequest:
        """Return a request for these parameters, without values that are the model's defaults."""
        entry = self._catalogue.get(params.model_id)
        defaults = entry.defaults.model_dump()
        names = ("resolution", "frames", "fps", "steps", "guidance_scale", "guidance_scale_2", "flow_shift")
        values = {name: getattr(params, name) for name in names}
        values["resolution"] = params.asked_resolution or params.resolution
        given = {name: value for name, value in values.items() if value != defaults[name]}
        kept = params.model_dump(
            include={
                "model_id",
                "prompt",
                "negative_prompt",
                "output_format",
                "seed",
                "quantization",
                "speed",
                "loras",
                "devices_per_job",
                "fit",
                "preview",
            }
        )
        return GenerationRequest.model_validate({**kept, **given, "fallback": list(params.fallback)})


def _picture(params: GenerationParams) -> tuple[int, int] | None:
    """Return the shape of a picture that the size follows."""
    return (params.width, params.height) if params.fit == "auto" else None


def _changes(before: GenerationParams, after: GenerationParams) -> tuple[Change, ...]:
    values = [(name, getattr(before, name), getattr(after, name)) for name in _COMPARED]
    return tuple(Change(field=name, asked=str(old), used=str(new)) for name, old, new in values if old != new)
