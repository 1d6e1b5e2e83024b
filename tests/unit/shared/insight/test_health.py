"""Health and recommendations, from facts."""

from datetime import UTC, datetime, timedelta

from shared.insight.health import Fault, HealthStatus, ModelFacts, ReplicaFacts, health, recommendations
from shared.states import ReplicaState

NOW = datetime(2026, 3, 10, tzinfo=UTC)
WHOLE = ReplicaFacts("one", ReplicaState.AVAILABLE, verified_at=NOW, refetchable=True)
BROKEN = ReplicaFacts(
    "two", ReplicaState.CORRUPTED, (Fault("vae/model.safetensors", "checksum_mismatch"),), refetchable=True
)


def model(*replicas: ReplicaFacts, **more: object) -> ModelFacts:
    return ModelFacts("T2V-A14B", replicas, **more)  # type: ignore[arg-type]


def actions(*models: ModelFacts, disk: float | None = None) -> list[tuple[str, str]]:
    return [(one.action, one.priority) for one in recommendations(models, disk, NOW)]


def test_a_whole_model_is_healthy_and_nothing_is_recommended() -> None:
    found = health(model(WHOLE))
    assert (found.status, found.issues, found.corruption_types, found.repair_suggestions) == ("healthy", (), (), ())
    assert not found.can_auto_repair
    assert actions(model(WHOLE), disk=50.0) == []


def test_a_broken_file_is_named_and_can_be_fetched_again() -> None:
    found = health(model(BROKEN))
    assert found.status == HealthStatus.CORRUPTED
    assert found.corruption_types == ("checksum_mismatch",)
    assert found.issues == ("vae/model.safetensors on node two: checksum_mismatch",)
    assert "integrity-check" in found.repair_suggestions[0]
    assert found.can_auto_repair
    assert actions(model(BROKEN)) == [("repair", "critical")]


def test_what_nobody_knows_the_commit_of_cannot_be_repaired() -> None:
    found = health(model(ReplicaFacts("two", ReplicaState.CORRUPTED)))
    assert not found.can_auto_repair
    assert "jobs/download" in found.repair_suggestions[0]


def test_one_broken_replica_beside_a_whole_one_only_degrades() -> None:
    assert health(model(WHOLE, BROKEN)).status == HealthStatus.DEGRADED
    assert actions(model(WHOLE, BROKEN)) == [("repair", "high")]


def test_a_model_that_mostly_fails_is_degraded() -> None:
    found = health(model(WHOLE, uses=10, success_rate=0.4))
    assert found.status == HealthStatus.DEGRADED
    assert found.issues == ("40% of its 10 latest uses succeeded",)
    assert actions(model(WHOLE, uses=10, success_rate=0.4)) == [("review_failures", "high")]
    assert health(model(WHOLE, uses=10, success_rate=0.5)).status == HealthStatus.HEALTHY


def test_missing_and_unknown() -> None:
    assert health(model()).status == HealthStatus.UNKNOWN
    assert health(model(ReplicaFacts("one", ReplicaState.UNKNOWN))).status == HealthStatus.UNKNOWN
    missing = model(ReplicaFacts("one", ReplicaState.MISSING, missing_files=("a", "b")), queued=3)
    assert health(missing).status == HealthStatus.MISSING
    assert health(missing).issues == ("2 files are missing on node one",)
    assert actions(missing) == [("download", "high")]
    failed = model(ReplicaFacts("one", ReplicaState.FAILED, download_error="no such repo"))
    assert health(failed).issues == ("Its download to node one failed: no such repo",)
    assert actions(failed) == [("download", "medium")]


def test_old_checks_updates_and_full_disks_are_reported() -> None:
    old = ReplicaFacts("one", ReplicaState.AVAILABLE, verified_at=NOW - timedelta(days=31))
    assert actions(model(old)) == [("check_integrity", "low")]
    assert actions(model(WHOLE, update_available=True)) == [("update", "low")]
    assert actions(disk=79.9) == []
    assert actions(disk=80.0) == [("cleanup", "medium")]
    assert actions(model(old), disk=95.0) == [("cleanup", "high"), ("check_integrity", "low")]


def test_a_repair_that_downloads_removed_weights_says_so_before() -> None:
    path = "prepared/bf16-1/transformer/key/weights.safetensors"
    fault = Fault(path, "checksum_mismatch")
    broken = ReplicaFacts("n", ReplicaState.CORRUPTED, (fault,), refetchable=True, removed_source_bytes=57_200_000_000)
    (suggestion,) = health(ModelFacts("m", (broken,))).repair_suggestions
    assert "57.2 GB of published weights, removed after preparing, are downloaded again first" in suggestion
    kept = ReplicaFacts("n", ReplicaState.CORRUPTED, (fault,), refetchable=True)
    assert "downloaded" not in health(ModelFacts("m", (kept,))).repair_suggestions[0]
