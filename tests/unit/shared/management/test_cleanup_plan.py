"""Cleanup plans on worked examples: what goes, in which order, and what never does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.management.cleanup_plan import Action, ActionKind, ArtifactFact, BlobFact, CleanupFacts, ModelFact, plan

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
GB = 10**9


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def model(model_id: str, used: float | None = None, **values: Any) -> ModelFact:
    """A model of 10 GB in its own repo, last used that many days ago."""
    last_used = None if used is None else days_ago(used)
    return ModelFact(model_id, f"o/{model_id}", f"rev-{model_id}", 10 * GB, last_used=last_used, **values)


def blob(
    owner: str, name: str, size: int = 10 * GB, *revisions: str, age: float = 90, partial: bool = False
) -> BlobFact:
    return BlobFact(f"o/{owner}", name, size, partial, days_ago(age), revisions or ())


def facts(*models: ModelFact, target: float | None = None, free: float = 5, **values: Any) -> CleanupFacts:
    """A disk of 100 GB."""
    if "blobs" not in values:
        values["blobs"] = tuple(blob(each.model_id, "b", 10 * GB, str(each.revision)) for each in models)
    return CleanupFacts(
        node="n",
        now=NOW,
        target_free_bytes=None if target is None else round(target * GB),
        keep_recent_days=values.pop("keep_recent_days", 30),
        disk_total_bytes=100 * GB,
        disk_free_bytes=round(free * GB),
        models=models,
        **values,
    )


def removed(facts: CleanupFacts) -> list[tuple[str, str | None]]:
    return [(str(action.kind), action.model_id) for action in plan(facts).actions]


def test_a_model_unused_for_60_days_goes_and_one_used_yesterday_stays() -> None:
    result = plan(facts(model("old", 60), model("new", 1)))
    (action,) = result.actions
    assert action == Action(
        ActionKind.REMOVE_MODEL,
        10 * GB,
        "Unused for 60 days",
        "old",
        repo="o/old",
        name="rev-old",
        last_used=days_ago(60),
    )
    assert [(kept.model_id, kept.reason) for kept in result.kept] == [("new", "It was used in the last 30 days")]
    assert result.planned_bytes == 10 * GB


@pytest.mark.parametrize("why", ["pinned", "loaded", "running", "queued", "downloading"])
def test_what_somebody_needs_never_goes(why: str) -> None:
    """Whatever the target, and however long ago it was used."""
    result = plan(facts(model("old", 400, **{why: True}), target=99))
    assert result.actions == ()
    assert len(result.kept) == 1
    assert not result.reaches_target


def test_keep_recent_days_is_a_limit_to_the_second() -> None:
    at = facts(model("m", 30))
    assert removed(at) == [("remove_model", "m")]
    assert removed(replace(at, now=at.now - timedelta(seconds=1))) == []
    assert removed(facts(model("m", 10), keep_recent_days=10)) == [("remove_model", "m")]
    assert removed(facts(model("m", 0), keep_recent_days=0)) == [("remove_model", "m")]


def test_never_used_counts_from_when_its_files_arrived() -> None:
    old = facts(model("m"), blobs=(blob("m", "b", GB, "rev-m", age=40),))
    (action,) = plan(old).actions
    assert (action.reason, action.last_used) == ("Never used since its download 40 days ago", None)
    assert removed(facts(model("m"), blobs=(blob("m", "b", GB, "rev-m", age=4),))) == []
    (kept,) = plan(facts(model("m"), blobs=())).kept
    assert kept.reason == "The time of its download is unknown"


def test_the_longest_unused_go_first_and_only_until_the_target() -> None:
    """5 GB are free and 18 wanted: two models of 10 GB."""
    given = facts(model("a", 50), model("b", 70), model("c", 60), target=18)
    result = plan(given)
    assert [action.model_id for action in result.actions] == ["b", "c"]
    assert (result.to_free_bytes, result.planned_bytes, result.reaches_target) == (13 * GB, 20 * GB, True)
    assert [kept.model_id for kept in result.kept] == ["a"]
    assert removed(replace(given, target_free_bytes=5 * GB)) == []
    assert not plan(replace(given, target_free_bytes=90 * GB)).reaches_target


def test_orphaned_files_are_removed_before_models() -> None:
    """Old revisions, then loose blobs, then artifacts, then models."""
    given = facts(
        model("m", 60),
        blobs=(
            blob("m", "new", 10 * GB, "rev-m"),
            blob("m", "old", 3 * GB, "rev-before"),
            blob("m", "x.incomplete", 2 * GB, partial=True),
            blob("m", "loose", GB),
        ),
        artifacts=(ArtifactFact("j1", GB), ArtifactFact("j2", GB)),
        free=0,
    )
    result = plan(given)
    assert [(str(action.kind), action.name, action.bytes // GB) for action in result.actions] == [
        ("remove_revision", "rev-before", 3),
        ("remove_partial", "x.incomplete", 2),
        ("remove_partial", "loose", 1),
        ("remove_artifacts", None, 2),
        ("remove_model", "rev-m", 10),
    ]
    assert result.actions[3].job_ids == ("j1", "j2")
    kinds = {target: len(plan(replace(given, target_free_bytes=target * GB)).actions) for target in (0, 3, 4, 6, 8, 9)}
    assert kinds == {0: 0, 3: 1, 4: 2, 6: 3, 8: 4, 9: 5}


def test_artifacts_on_another_disk_make_no_room_here() -> None:
    given = facts(model("m", 60), artifacts=(ArtifactFact("j", 50 * GB),), target=10)
    assert removed(given) == [("remove_artifacts", None)]
    assert removed(replace(given, artifacts_on_this_disk=False)) == [("remove_artifacts", None), ("remove_model", "m")]


def test_a_blob_that_two_revisions_share_is_counted_once() -> None:
    """Removing the older one frees its own blob alone; the shared one goes with the last revision that needs it."""
    given = facts(
        model("m", 60),
        blobs=(
            blob("m", "shared", 8 * GB, "rev-before", "rev-m"),
            blob("m", "own-old", GB, "rev-before"),
            blob("m", "own-new", 2 * GB, "rev-m"),
        ),
    )
    assert [(str(action.kind), action.bytes // GB) for action in plan(given).actions] == [
        ("remove_revision", 1),
        ("remove_model", 10),
    ]
    kept = replace(given, models=(model("m", 1),))
    assert [(str(action.kind), action.bytes // GB) for action in plan(kept).actions] == [("remove_revision", 1)]


@pytest.mark.parametrize("why", ["pinned", "loaded", "running", "downloading"])
def test_orphaned_files_of_a_model_in_use_stay(why: str) -> None:
    blobs = (blob("m", "b", GB, "rev-m"), blob("m", "old", GB, "rev-before"), blob("m", "p", GB, partial=True))
    assert removed(facts(model("m", 60), blobs=blobs)) != []
    left = removed(facts(model("m", 60, **{why: True}), blobs=blobs))
    assert left == ([("remove_partial", "m")] if why == "loaded" else [])


def test_a_blob_that_is_just_being_written_stays() -> None:
    blobs = (blob("m", "b", GB, "rev-m"), blob("m", "p", GB, age=0.01, partial=True))
    assert removed(facts(model("m", 1), blobs=blobs)) == []


def test_other_peoples_repos_are_not_touched() -> None:
    assert removed(facts(model("m", 1), blobs=(blob("m", "b", GB, "rev-m"), blob("else", "p", GB, "r")))) == []


def test_models_in_one_repo_keep_what_the_other_needs() -> None:
    """Two revisions of one repo under two names: the unused one's own blobs go, the other is no old revision."""
    one, two = model("one", 60), replace(model("two", 1), repo="o/one")
    blobs = (blob("one", "shared", 5 * GB, "rev-one", "rev-two"), blob("one", "own", GB, "rev-one"))
    assert [(action.model_id, action.bytes) for action in plan(facts(one, two, blobs=blobs)).actions] == [("one", GB)]


def test_the_same_files_under_two_names_go_together_or_stay() -> None:
    one = model("one", 60)
    two = replace(one, model_id="two", last_used=days_ago(40))
    blobs = (blob("one", "b", GB, "rev-one"),)
    (action,) = plan(facts(one, two, blobs=blobs)).actions
    assert (action.model_id, action.also, action.bytes) == ("one", ("two",), GB)
    assert action.reason == "Unused for 40 days"
    pinned = plan(facts(one, replace(two, pinned=True), blobs=blobs))
    assert pinned.actions == ()
    assert [kept.model_id for kept in pinned.kept] == ["one", "two"]


def test_without_an_inventory_a_models_own_size_counts() -> None:
    result = plan(facts(model("m", 60), blobs=()))
    assert [action.bytes for action in result.actions] == [10 * GB]


def copies(owner: str, name: str, size: int, **values: Any) -> BlobFact:
    return replace(blob(owner, name, size, f"rev-{owner}"), prepared=True, **values)


def test_copies_go_before_models_to_reach_a_target() -> None:
    blobs = tuple(
        each
        for owner in ("old", "older")
        for each in (blob(owner, "w", 6 * GB, f"rev-{owner}"), copies(owner, "c", 3 * GB))
    )
    given = facts(model("old", 60), model("older", 90), target=10, free=5, blobs=blobs)
    assert removed(given) == [("remove_prepared", "older"), ("remove_prepared", "old")]
    more = facts(model("old", 60), model("older", 90), target=15, free=5, blobs=blobs)
    result = plan(more)
    assert [(str(action.kind), action.bytes) for action in result.actions] == [
        ("remove_prepared", 3 * GB), ("remove_prepared", 3 * GB), ("remove_model", 6 * GB),
    ]  # fmt: skip
    assert result.planned_bytes == 12 * GB
    everything = facts(model("old", 60), blobs=blobs)
    assert removed(everything) == [("remove_model", "old")]


def test_copies_of_a_model_in_use_or_without_published_weights_stay() -> None:
    blobs = (blob("m", "w", 6 * GB, "rev-m"), copies("m", "c", 3 * GB))
    assert removed(facts(model("m", 1), target=10, free=5, blobs=blobs)) == []
    only = facts(model("m", 60, copies_only=True), target=10, free=5, blobs=blobs)
    assert removed(only) == [("remove_model", "m")]


def test_a_shared_file_frees_space_with_the_last_model_that_has_it() -> None:
    blobs = tuple(
        each
        for owner in ("one", "two")
        for each in (
            blob(owner, f"w-{owner}", 6 * GB, f"rev-{owner}"),
            replace(blob(owner, "encoder", 4 * GB, f"rev-{owner}"), shared=True),
        )
    )
    result = plan(facts(model("one", 90), model("two", 60), blobs=blobs))
    assert [(action.model_id, action.bytes) for action in result.actions] == [("one", 6 * GB), ("two", 10 * GB)]
