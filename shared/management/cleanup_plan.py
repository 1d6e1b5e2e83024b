"""What to remove from a node's model storage to free space, and why. Pure: it uses neither disk nor database.

Orphaned files come first (superseded revisions, blobs that no download needs, expired artifacts), then prepared copies
of unused models, which can be written again, then whole models, the longest unused first. Models that are in use,
loaded, needed by queued jobs, pinned or recently used are kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

# Another program may be writing a blob that belongs to no download.
_QUIET = timedelta(hours=1)


class ActionKind(StrEnum):
    REMOVE_REVISION = "remove_revision"
    REMOVE_PARTIAL = "remove_partial"  # a complete or partial blob that no revision and no download needs
    REMOVE_ARTIFACTS = "remove_artifacts"
    REMOVE_PREPARED = "remove_prepared"  # the prepared copies of a model whose published weights are there
    REMOVE_MODEL = "remove_model"


@dataclass(frozen=True)
class BlobFact:
    """One blob in a repo's cache."""

    repo: str
    name: str
    bytes: int
    partial: bool
    modified_at: datetime
    revisions: tuple[str, ...] = ()  # the snapshots that link to it
    prepared: bool = False  # whether prepared copies alone use it
    shared: bool = False  # whether another repository has the same file: only removing the last one frees space


@dataclass(frozen=True)
class ModelFact:
    """One model's replica on the node, and the reasons against removing it."""

    model_id: str
    repo: str
    revision: str | None  # the snapshot in use; None: unknown
    bytes: int  # of its files, by the last presence scan
    present: bool = True  # whether files exist or may exist
    last_used: datetime | None = None
    pinned: bool = False
    loaded: bool = False  # on a device of the node
    running: bool = False  # a generation, a check or a removal works on it
    queued: bool = False  # a generation waits for it
    downloading: bool = False  # a download of it has not ended
    copies_only: bool = False  # published weights were removed, so the model needs its prepared copies


@dataclass(frozen=True)
class ArtifactFact:
    """The artifacts of an expired or deleted job."""

    job_id: str
    bytes: int


@dataclass(frozen=True)
class CleanupFacts:
    """One node at one moment. `target_free_bytes` None: all unneeded files are removed."""

    node: str
    now: datetime
    target_free_bytes: int | None
    keep_recent_days: int
    disk_total_bytes: int | None
    disk_free_bytes: int | None
    models: tuple[ModelFact, ...]
    blobs: tuple[BlobFact, ...] = ()
    artifacts: tuple[ArtifactFact, ...] = ()
    artifacts_on_this_disk: bool = True  # whether removing artifacts frees space for models


@dataclass(frozen=True)
class Action:
    """One removal. `bytes`: what it frees after all earlier actions."""

    kind: ActionKind
    bytes: int
    reason: str
    model_id: str | None = None
    also: tuple[str, ...] = ()  # models with the same files under another name
    repo: str | None = None
    name: str | None = None  # a revision's commit, or a blob's name
    last_used: datetime | None = None
    job_ids: tuple[str, ...] = ()  # of artifacts


@dataclass(frozen=True)
class Kept:
    """A model that the plan keeps, and the first reason."""

    model_id: str
    reason: str


@dataclass(frozen=True)
class CleanupPlan:
    """The plan. Sizes in bytes. None: the node has not reported the size of its disk yet."""

    node: str
    actions: tuple[Action, ...]
    kept: tuple[Kept, ...]
    free_bytes: int | None
    target_free_bytes: int | None
    to_free_bytes: int  # what is missing to the target now; 0 without a target
    planned_bytes: int  # what the actions free on this disk
    reaches_target: bool


@dataclass
class _Draft:
    facts: CleanupFacts
    lacking: int | None  # bytes missing to the target; None: no target
    actions: list[Action] = field(default_factory=list)
    freed: int = 0
    gone: dict[str, set[str]] = field(default_factory=dict)  # revisions to be removed, by repo
    taken: set[tuple[str, str]] = field(default_factory=set)  # repo and name of blobs to be removed

    def full(self) -> bool:
        return self.lacking is not None and self.freed >= self.lacking

    def add(self, action: Action, counts: bool = True) -> None:
        self.actions.append(action)
        self.freed += action.bytes if counts else 0

    def take_revisions(self, repo: str, revisions: set[str]) -> int:
        """Plan to remove revisions. Return the bytes of blobs that no remaining revision needs."""
        after = self.gone.setdefault(repo, set()) | revisions
        self.gone[repo] = after
        return self._take(
            blob
            for blob in self.facts.blobs
            if blob.repo == repo and blob.revisions and not blob.partial and after.issuperset(blob.revisions)
        )

    def take_copies(self, model: ModelFact) -> int:
        """Plan to remove the prepared copies of a model's revision. Return the bytes that no other revision needs."""
        return self._take(
            blob
            for blob in self.facts.blobs
            if blob.prepared and blob.repo == model.repo and set(blob.revisions) == {model.revision}
        )

    def _take(self, blobs: Iterable[BlobFact]) -> int:
        """Plan to remove these blobs. Return the bytes that this frees."""
        freed = 0
        for blob in blobs:
            if (blob.repo, blob.name) in self.taken:
                continue
            self.taken.add((blob.repo, blob.name))
            others = (one.repo for one in self.facts.blobs if blob.shared and one.shared and one.name == blob.name)
            freed += blob.bytes if all((repo, blob.name) in self.taken for repo in others) else 0
        return freed


def plan(facts: CleanupFacts) -> CleanupPlan:
    """Return the plan: with a target only the removals that reach it, in order; without one all unneeded files."""
    lacking = None
    if facts.target_free_bytes is not None:
        lacking = max(0, facts.target_free_bytes - (facts.disk_free_bytes or 0))
    draft = _Draft(facts, lacking)
    _old_revisions(draft)
    _loose_blobs(draft)
    _artifacts(draft)
    kept = _models(draft)
    return CleanupPlan(
        node=facts.node,
        actions=tuple(draft.actions),
        kept=kept,
        free_bytes=facts.disk_free_bytes,
        target_free_bytes=facts.target_free_bytes,
        to_free_bytes=lacking or 0,
        planned_bytes=draft.freed,
        reaches_target=lacking is None or draft.freed >= lacking,
    )


def recently_used(model: ModelFact, arrived: datetime | None, now: datetime, keep_recent_days: int) -> bool:
    """Return whether the model was used in the last days. An unused one counts from its download; unknown is recent."""
    since = model.last_used or arrived
    return since is None or now - since < timedelta(days=keep_recent_days)


def _old_revisions(draft: _Draft) -> None:
    """Plan to remove snapshots that no model uses, oldest first."""
    facts = draft.facts
    for repo, models in _by_repo(facts).items():
        if any(_busy(model) or model.pinned or model.loaded or model.revision is None for model in models):
            continue  # loaded weights are mapped from the revision that they were loaded from
        current = {model.revision for model in models}
        last: dict[str, datetime] = {}
        for blob in facts.blobs:
            for revision in blob.revisions if blob.repo == repo else ():
                last[revision] = max(blob.modified_at, last.get(revision, blob.modified_at))
        for revision in sorted(set(last) - current, key=lambda each: (last[each], each)):
            if draft.full():
                return
            freed = draft.take_revisions(repo, {revision})
            reason = f"Revision {revision[:12]} has been replaced"
            owner = models[0].model_id
            draft.add(Action(ActionKind.REMOVE_REVISION, freed, reason, owner, repo=repo, name=revision))


def _loose_blobs(draft: _Draft) -> None:
    """Plan to remove blobs without a revision that no download will continue, largest first."""
    facts = draft.facts
    models = _by_repo(facts)
    for blob in sorted(facts.blobs, key=lambda each: (-each.bytes, each.name)):
        owners = models.get(blob.repo, ())
        if (blob.revisions and not blob.partial) or not owners or any(_busy(model) for model in owners):
            continue
        if facts.now - blob.modified_at < _QUIET or any(model.pinned for model in owners):
            continue
        if draft.full():
            return
        reason = "Part of a download that has ended" if blob.partial else "No revision and no download needs this file"
        owner = owners[0].model_id
        draft.add(Action(ActionKind.REMOVE_PARTIAL, blob.bytes, reason, owner, repo=blob.repo, name=blob.name))


def _artifacts(draft: _Draft) -> None:
    """Plan to remove all expired artifacts, which retention would remove too."""
    facts = draft.facts
    if not facts.artifacts or draft.full():
        return
    size = sum(artifact.bytes for artifact in facts.artifacts)
    job_ids = tuple(artifact.job_id for artifact in facts.artifacts)
    reason = f"Artifacts of {len(job_ids)} expired or deleted jobs"
    draft.add(Action(ActionKind.REMOVE_ARTIFACTS, size, reason, job_ids=job_ids), facts.artifacts_on_this_disk)


def _models(draft: _Draft) -> tuple[Kept, ...]:
    """Plan to remove models, the longest unused first. Models with the same files are removed together or kept."""
    facts = draft.facts
    arrived = _arrivals(facts)
    kept: list[Kept] = []
    candidates: list[tuple[datetime, list[ModelFact]]] = []
    for models in _by_files(facts):
        reasons = [_why_kept(model, arrived.get(model.model_id), facts) for model in models]
        if any(reasons):
            reason = next(filter(None, reasons))
            kept += [Kept(model.model_id, own or reason) for model, own in zip(models, reasons, strict=True)]
            continue
        candidates.append((max(model.last_used or arrived[model.model_id] for model in models), models))
    ordered = sorted(candidates, key=lambda each: (each[0], each[1][0].model_id))
    _copies(draft, [models for _, models in ordered])
    for since, models in ordered:
        if draft.full():
            kept += [Kept(model.model_id, "Enough space is free without removing it") for model in models]
            continue
        first, days = models[0], (facts.now - since).days
        last_used = max((model.last_used for model in models if model.last_used), default=None)
        draft.add(
            Action(
                kind=ActionKind.REMOVE_MODEL,
                bytes=_take_model(draft, first),
                reason=f"Unused for {days} days" if last_used else f"Never used since its download {days} days ago",
                model_id=first.model_id,
                also=tuple(model.model_id for model in models[1:]),
                repo=first.repo,
                name=first.revision,
                last_used=last_used,
            )
        )
    return tuple(kept)


def _copies(draft: _Draft, unused: list[list[ModelFact]]) -> None:
    """Plan to remove prepared copies to reach a target. Without one the models are removed with their copies."""
    if draft.lacking is None:
        return
    for models in unused:
        if draft.full():
            return
        first = models[0]
        if any(model.copies_only or model.revision is None for model in models):
            continue
        size = draft.take_copies(first)
        if size:
            draft.add(
                Action(
                    kind=ActionKind.REMOVE_PREPARED,
                    bytes=size,
                    reason="Its prepared copies can be written again from the published weights",
                    model_id=first.model_id,
                    also=tuple(model.model_id for model in models[1:]),
                    repo=first.repo,
                    name=first.revision,
                    last_used=max((model.last_used for model in models if model.last_used), default=None),
                )
            )


def _why_kept(model: ModelFact, arrived: datetime | None, facts: CleanupFacts) -> str | None:
    if model.pinned:
        return "It is pinned"
    if model.running:
        return "It is in use"
    if model.loaded:
        return "It is loaded on a device"
    if model.queued:
        return "A queued job needs it"
    if model.downloading:
        return "A download of it has not ended"
    if recently_used(model, arrived, facts.now, facts.keep_recent_days):
        if model.last_used is None and arrived is None:
            return "The time of its download is unknown"
        return f"It was {'used' if model.last_used else 'downloaded'} in the last {facts.keep_recent_days} days"
    return None


def revisions_of(facts: CleanupFacts, model: ModelFact) -> set[str]:
    """Return the snapshots to remove with a model: its own, or all if no other model shares its repository."""
    others = {other.revision for other in facts.models if other.repo == model.repo} - {model.revision}
    if others:
        return {model.revision} if model.revision is not None else set()
    return {revision for blob in facts.blobs if blob.repo == model.repo for revision in blob.revisions}


def _take_model(draft: _Draft, model: ModelFact) -> int:
    if not any(blob.repo == model.repo for blob in draft.facts.blobs):
        return model.bytes  # the node has not listed its blobs yet
    return draft.take_revisions(model.repo, revisions_of(draft.facts, model))


def _arrivals(facts: CleanupFacts) -> Mapping[str, datetime]:
    """Return when the newest file of each model's revision was written."""
    found: dict[str, datetime] = {}
    for model in facts.models:
        mine = [
            blob.modified_at
            for blob in facts.blobs
            if blob.repo == model.repo and (model.revision is None or model.revision in blob.revisions)
        ]
        if mine:
            found[model.model_id] = max(mine)
    return found


def _busy(model: ModelFact) -> bool:
    return model.running or model.downloading


def _by_files(facts: CleanupFacts) -> list[list[ModelFact]]:
    groups: dict[tuple[str, str | None], list[ModelFact]] = {}
    for model in facts.models:
        if model.present:
            groups.setdefault((model.repo, model.revision), []).append(model)
    return list(groups.values())


def _by_repo(facts: CleanupFacts) -> dict[str, list[ModelFact]]:
    repos: dict[str, list[ModelFact]] = {}
    for model in facts.models:
        repos.setdefault(model.repo, []).append(model)
    return repos
