"""Guarantees of batches, start times, pauses and preemptions. Pure."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.soak.history import History
from tests.soak.rules.violations import ENDS, Violation, rows_of, violated

# Between the clock of the database, which decides, and that of the worker, which writes when it has started.
_TOLERANCE_SECONDS = 0.25


def a_batch_ends_once_and_counts_right(history: History) -> Iterator[Violation]:
    """A batch has ended exactly if its jobs have, with their numbers, and its webhook gets one message."""
    rule = a_batch_ends_once_and_counts_right
    of_batch: dict[str, Counter[str]] = {}
    for row in rows_of(history).values():
        if row.get("batch_id") is not None:
            of_batch.setdefault(row["batch_id"], Counter())[row["status"]] += 1
    for batch in history.remains.batches:
        found = of_batch.get(batch["id"], Counter())
        counted = {state: batch[state] for state in sorted(ENDS)}
        over = sum(found[state] for state in ENDS) == batch["total"]
        if over != (batch["finished_at"] is not None) or (
            over and counted != {one: found[one] for one in sorted(ENDS)}
        ):
            said = f"it says {counted}, ended at {batch['finished_at']}, and its jobs are {dict(found)}"
            yield violated(rule, history, batch["id"], said)
        told = sum(one["job_id"] == batch["id"] for one in history.remains.messages)
        if told != int(over):
            yield violated(rule, history, batch["id"], f"{told} messages about {int(over)} ends")


def nothing_starts_before_its_time(history: History) -> Iterator[Violation]:
    """No job has started before its `start_after`."""
    for row in rows_of(history).values():
        after, started = row.get("start_after"), row["started_at"]
        if after is not None and started is not None and started < after - _TOLERANCE_SECONDS:
            said = f"it started at {started:.2f}, and its start time was {after:.2f}"
            yield violated(nothing_starts_before_its_time, history, row["id"], said)


def nothing_starts_while_paused(history: History) -> Iterator[Violation]:
    """No job of a model has started while the model was paused."""
    for pause in history.remains.pauses:
        ends = [moment for moment in (pause["until"], pause["ended_at"]) if moment is not None]
        if pause["kind"] != "model_id" or not ends:
            continue
        begin, end = pause["created_at"] + _TOLERANCE_SECONDS, min(ends) - _TOLERANCE_SECONDS
        for row in rows_of(history).values():
            if row["model_id"] == pause["value"] and row["started_at"] is not None and begin < row["started_at"] < end:
                said = f"it started at {row['started_at']:.2f}, within the pause from {begin:.2f} to {end:.2f}"
                yield violated(nothing_starts_while_paused, history, row["id"], said)


def a_preempted_job_continues(history: History) -> Iterator[Violation]:
    """The attempt that makes the video after a preemption continues from the checkpoint, if it is on the same node."""
    for row in rows_of(history).values():
        for before, after in pairwise(row.get("attempt_history") or ()):
            kept = before["checkpoint_step"] if before["outcome"] == "preempted" else None
            if kept is None or after["outcome"] != "succeeded" or after["node"] != before["node"]:
                continue
            if (after["resumed_from_step"] or 0) < kept:
                said = f"attempt {after['attempt']} continued after step {after['resumed_from_step']}, not {kept}"
                yield violated(a_preempted_job_continues, history, row["id"], said)
