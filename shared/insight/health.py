"""The health of a model, its problems, and the requests that repair them. Pure.

It works on facts about replicas and uses, and starts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from shared.states import REPLICA_READY, ReplicaState

# With a lower share of successes among its latest uses, a model is `degraded`.
LOWEST_SUCCESS_RATE = 0.5
# A full check is due once a week. Older results than this are reported.
_CHECK_AGE = timedelta(days=30)
_DISK_HIGH, _DISK_FULL = 80.0, 90.0  # percent
_SHOWN_FILES = 3


class HealthStatus(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"  # it works, but a replica is broken, or more than half of its latest uses failed
    CORRUPTED = "corrupted"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fault:
    """One missing or wrong file."""

    path: str
    type: str


@dataclass(frozen=True)
class ReplicaFacts:
    node: str
    availability: ReplicaState
    faults: tuple[Fault, ...] = ()
    missing_files: tuple[str, ...] = ()
    refetchable: bool = False  # its commit is known, and its repository is still the catalogue's
    verified_at: datetime | None = None
    removed_source_bytes: int = 0  # of published weights that were removed because copies stand in for them
    download_error: str | None = None  # of its newest download, if that failed


@dataclass(frozen=True)
class ModelFacts:
    model_id: str
    replicas: tuple[ReplicaFacts, ...]
    uses: int = 0  # of the latest
    success_rate: float | None = None  # of the latest uses
    update_available: bool = False
    queued: int = 0  # jobs that wait for it


@dataclass(frozen=True)
class Health:
    status: HealthStatus
    issues: tuple[str, ...]
    corruption_types: tuple[str, ...]
    repair_suggestions: tuple[str, ...]
    can_auto_repair: bool


@dataclass(frozen=True)
class Recommendation:
    type: str  # repair, download, maintenance, update, storage or reliability
    priority: str  # critical, high, medium or low
    message: str
    action: str
    model_id: str | None = None


def health(model: ModelFacts) -> Health:
    """Return the health of a model. Its status is that of its best replica; other faults make it `degraded`."""
    broken = [replica for replica in model.replicas if _is_broken(replica)]
    states = {replica.availability for replica in model.replicas}
    failing = model.success_rate is not None and model.success_rate < LOWEST_SUCCESS_RATE
    if states & REPLICA_READY:
        status = HealthStatus.DEGRADED if broken or failing else HealthStatus.HEALTHY
    elif broken:
        status = HealthStatus.CORRUPTED
    elif states - {ReplicaState.UNKNOWN}:
        status = HealthStatus.MISSING
    else:
        status = HealthStatus.UNKNOWN
    issues = [issue for replica in model.replicas for issue in _issues(replica)]
    if not model.replicas:
        issues.append("No node has scanned for it yet")
    if failing and model.success_rate is not None:
        issues.append(f"{model.success_rate:.0%} of its {model.uses} latest uses succeeded")
    suggestions = [_suggestion(model.model_id, replica) for replica in broken]
    if status == HealthStatus.MISSING and ReplicaState.DOWNLOADING not in states:
        suggestions.append(f"Fetch it: POST /api/v1/jobs/download with model_id {model.model_id}")
    return Health(
        status=status,
        issues=tuple(issues),
        corruption_types=tuple(sorted({fault.type for replica in model.replicas for fault in replica.faults})),
        repair_suggestions=tuple(suggestions),
        can_auto_repair=bool(broken) and all(replica.refetchable for replica in broken),
    )


def recommendations(models: Sequence[ModelFacts], disk_percent: float | None, now: datetime) -> list[Recommendation]:
    """Return what an operator should do, most urgent first."""
    found = [rule for model in models for rule in _of_model(model, now)]
    if disk_percent is not None and disk_percent >= _DISK_HIGH:
        priority = "high" if disk_percent >= _DISK_FULL else "medium"
        message = f"The model storage is {disk_percent:.0f} % full; check what a cleanup would remove"
        found.append(Recommendation("storage", priority, message, "cleanup"))
    return sorted(found, key=lambda one: ("critical", "high", "medium", "low").index(one.priority))


def _of_model(model: ModelFacts, now: datetime) -> list[Recommendation]:
    found = []

    def recommend(type: str, priority: str, message: str, action: str) -> None:
        found.append(Recommendation(type, priority, message, action, model.model_id))

    name = model.model_id
    state = health(model)
    if state.corruption_types or state.status == HealthStatus.CORRUPTED:
        served = state.status == HealthStatus.DEGRADED
        recommend("repair", "high" if served else "critical", f"Repair the broken files of {name}", "repair")
    if any(replica.availability == ReplicaState.FAILED for replica in model.replicas):
        recommend("download", "medium", f"The download of {name} failed; start it again", "download")
    elif state.status == HealthStatus.MISSING and model.queued:
        recommend("download", "high", f"Jobs wait for {name}, which no node holds: {model.queued}", "download")
    if model.success_rate is not None and model.success_rate < LOWEST_SUCCESS_RATE:
        message = f"Most of the latest uses of {name} failed; check the errors of its jobs"
        recommend("reliability", "high", message, "review_failures")
    held = [replica for replica in model.replicas if replica.availability in REPLICA_READY]
    if any(replica.verified_at is None or now - replica.verified_at > _CHECK_AGE for replica in held):
        recommend("maintenance", "low", f"Consider running integrity check on {name}", "check_integrity")
    if model.update_available:
        recommend("update", "low", f"A newer version of {name} is on the hub", "update")
    return found


def _is_broken(replica: ReplicaFacts) -> bool:
    return replica.availability == ReplicaState.CORRUPTED or bool(replica.faults)


def _issues(replica: ReplicaFacts) -> list[str]:
    issues = [f"{fault.path} on node {replica.node}: {fault.type}" for fault in replica.faults[:_SHOWN_FILES]]
    if len(replica.faults) > _SHOWN_FILES:
        issues.append(f"{len(replica.faults) - _SHOWN_FILES} more broken files on node {replica.node}")
    if replica.availability == ReplicaState.CORRUPTED and not replica.faults:
        issues.append(f"Files on node {replica.node} cannot be used")
    if replica.availability == ReplicaState.MISSING:
        lacking = len(replica.missing_files)
        issues.append(f"{lacking} files are missing" if lacking else "It is missing")
        issues[-1] += f" on node {replica.node}"
    if replica.availability == ReplicaState.FAILED:
        issues.append(
            f"Its download to node {replica.node} failed: {replica.download_error or 'the reason is unknown'}"
        )
    if replica.availability == ReplicaState.UNKNOWN:
        issues.append(f"Node {replica.node} is silent, or has not scanned yet")
    return issues


def _suggestion(model_id: str, replica: ReplicaFacts) -> str:
    if replica.refetchable:
        fields = f"model_id {model_id}, node {replica.node} and repair true"
        again = ""
        if replica.removed_source_bytes and any(fault.path.startswith("prepared/") for fault in replica.faults):
            size = replica.removed_source_bytes / 1e9
            again = f"; up to {size:.1f} GB of published weights, removed after preparing, are downloaded again first"
        return f"Fetch the broken files again: POST /api/v1/jobs/integrity-check with {fields}{again}"
    return f"Its commit on node {replica.node} is unknown: download it again with POST /api/v1/jobs/download"
