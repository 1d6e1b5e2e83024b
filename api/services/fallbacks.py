"""Applies the strategies that a generation request lists in `fallback`, where its model cannot serve now.

They are tried in the order given; the first that applies is applied, and what it changed is written into the job.
"""

from collections.abc import Callable
from dataclasses import dataclass

from api.services import fallback_facts
from shared.catalogue.job_types import DOWNLOAD, AppliedFallback, Change, DownloadParams, GenerationParams, settle
from shared.catalogue.models import Catalogue
from shared.database.engine import Database
from shared.errors import Conflict, InvalidField
from shared.jobs import download_control, records
from shared.jobs.records import Accepted, NewJob
from shared.management.fallback import ModelFacts, Strategy, Wish, alternatives_to
from shared.management.library import Library
from shared.settings import Settings
from shared.states import Priority
from wanworks.requests import GenerationRequest

# What `hybrid_approach` may stand for: the first pair of which both apply.
_HYBRIDS = (
    (Strategy.ALTERNATIVE_MODEL, Strategy.DOWNLOAD_AND_RETRY),
    (Strategy.REDUCE_REQUIREMENTS, Strategy.DOWNLOAD_AND_RETRY),
    (Strategy.REDUCE_REQUIREMENTS, Strategy.QUEUE_AND_WAIT),
)
_COMPARED = ("model_id", "resolution", "frames", "fps", "steps", "quantization")


@dataclass(frozen=True)
class _Outcome:
    params: GenerationParams
    message: str
    mock: bool = False
    job_id: str | None = None


@dataclass(frozen=True)
class _Case:
    """One request whose model cannot serve now."""

    asked: GenerationRequest
    params: GenerationParams
    priority: Priority
    library: Library
    models: dict[str, ModelFacts]

    @property
    def wanted(self) -> ModelFacts:
        return self.models[self.params.model_id]


class Fallbacks:
    def __init__(
        self, settings: Settings, catalogue: Catalogue, database: Database, library: Callable[[], Library]
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._database = database
        self._library = library

    def apply(
        self, asked: GenerationRequest | None, params: GenerationParams, priority: Priority
    ) -> tuple[GenerationParams, bool]:
        """What will be carried out, and whether as a mock. May start a download. Raises DatabaseUnavailable.

        `asked` None: the request is not there any more (a retry), and its settled values stand for it.
        """
        if not params.fallback:
            return params, False
        # Of an earlier try only what it changed still holds; whether to wait or to mock is decided anew.
        earlier = tuple(applied for applied in params.fallback_applied if applied.changes)
        params = params.model_copy(update={"fallback_applied": earlier})
        library = self._library()
        models = fallback_facts.facts(self._settings, library)
        wanted = models[params.model_id]
        if wanted.ready and _carried(wanted, params) is not False:
            return params, False
        case = _Case(asked or self._request_of(params), params, priority, library, models)
        for strategy in map(Strategy, params.fallback):
            outcome = self._try(strategy, case)
            if outcome is not None:
                applied = AppliedFallback(
                    strategy=strategy.value,
                    message=outcome.message,
                    changes=_changes(params, outcome.params),
                    job_id=outcome.job_id,
                )
                told = (*earlier, applied)
                return outcome.params.model_copy(update={"fallback_applied": told}), outcome.mock
        return params, False

    def _try(self, strategy: Strategy, case: _Case) -> _Outcome | None:
        """None where it does not apply."""
        match strategy:
            case Strategy.MOCK_GENERATION:
                return _Outcome(case.params, "A labelled test card is made instead of a video", mock=True)
            case Strategy.QUEUE_AND_WAIT:
                return _Outcome(case.params, f"The job waits until {case.params.model_id} can serve")
            case Strategy.ALTERNATIVE_MODEL:
                return self._alternative(case)
            case Strategy.REDUCE_REQUIREMENTS:
                return self._reduced(case)
            case Strategy.DOWNLOAD_AND_RETRY:
                return self._download(case)
            case Strategy.HYBRID_APPROACH:
                return self._hybrid(case)

    def _alternative(self, case: _Case) -> _Outcome | None:
        """The most compatible model that can serve now and makes all that was asked for."""
        wish = Wish(case.params.model_id, resolution=case.params.resolution)
        for other in alternatives_to(wish, case.models):
            if not case.models[other.model_id].usable:
                continue
            request = case.asked.model_copy(update={"model_id": other.model_id})
            try:
                params = settle(request, self._catalogue.get(other.model_id), case.params.image)
            except InvalidField:
                continue
            seed = {"seed": case.params.seed}  # the one that was drawn for the request
            return _Outcome(params.model_copy(update=seed), f"{other.model_id} is used instead. {other.reason}")
        return None

    def _reduced(self, case: _Case) -> _Outcome | None:
        entry, wanted = case.wanted.entry, case.wanted
        if _carried(wanted, case.params) is not False or not wanted.carried_int8 or "int8" not in entry.quantizations:
            return None
        params = case.params.model_copy(update={"quantization": "int8"})
        return _Outcome(params, "int8 weights are used: no device has the memory for what was asked")

    def _download(self, case: _Case) -> _Outcome | None:
        model_id = case.params.model_id
        under_way = self._active(model_id)
        if under_way is not None:
            return _Outcome(case.params, f"The job waits for the download of {model_id}", job_id=under_way)
        node = fallback_facts.room_for(self._settings, case.library, case.library.models[model_id])
        if case.wanted.ready or node is None:
            return None
        new = NewJob(
            DOWNLOAD,
            DownloadParams(model_id=model_id, node=node.name),
            case.priority,
            metadata={"started_by": "fallback"},
            max_failures=self._settings.max_failures,
        )
        (made,) = records.accept(self._database, [new])
        if isinstance(made, Conflict):  # somebody else has just started it
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
        """As it may have been asked: what is the model's own default counts as left out."""
        entry = self._catalogue.get(params.model_id)
        defaults = entry.defaults.model_dump()
        names = ("resolution", "frames", "fps", "steps", "guidance_scale", "guidance_scale_2", "flow_shift")
        values = {name: getattr(params, name) for name in names}
        said = {name: value for name, value in values.items() if value != defaults[name]}
        kept = params.model_dump(
            include={"model_id", "prompt", "negative_prompt", "output_format", "seed", "quantization", "loras"}
        )
        return GenerationRequest.model_validate({**kept, **said, "fallback": list(params.fallback)})


def _carried(facts: ModelFacts, params: GenerationParams) -> bool | None:
    return facts.carried_int8 if params.quantization == "int8" else facts.carried


def _changes(before: GenerationParams, after: GenerationParams) -> tuple[Change, ...]:
    values = [(name, getattr(before, name), getattr(after, name)) for name in _COMPARED]
    return tuple(Change(field=name, asked=str(old), used=str(new)) for name, old, new in values if old != new)
