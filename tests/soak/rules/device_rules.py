"""Check that a device fault is followed by a new process, and that quarantines follow the rule. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from tests.soak.history import History
from tests.soak.rules.violations import GENERATION, Violation, violated

_POISONED = ("cuda_error", "failed_probe")
_IN_A_ROW, _JOBS = 3, 2
_SLACK_SECONDS = 1.0  # between the time in a row and its commit

Row = Mapping[str, Any]


def the_job_after_a_poisoned_context_runs_in_a_new_process(history: History) -> Iterator[Violation]:
    """No attempt starts in a process whose CUDA context was poisoned before."""
    for fault in history.remains.device_faults:
        if fault["kind"] not in _POISONED:
            continue
        for row in history.remains.rows:
            same = (row.get("device_key"), row.get("pid")) == (fault["device_key"], fault["pid"])
            if same and row["started_at"] is not None and row["started_at"] > fault["at"]:
                said = f"it started at {row['started_at']:.2f} in process {fault['pid']}, poisoned at {fault['at']:.2f}"
                yield violated(the_job_after_a_poisoned_context_runs_in_a_new_process, history, str(row["id"]), said)


def a_device_is_quarantined_only_as_the_rule_says(history: History) -> Iterator[Violation]:
    """Three faults in a row, of at least two jobs and without a success between them, quarantine; nothing else does."""
    rule = a_device_is_quarantined_only_as_the_rule_says
    for key, faults in _by_device(history).items():
        for place, fault in enumerate(faults):
            counted = [
                one for one in faults[: place + 1] if one["cleared_at"] is None or one["cleared_at"] > fault["at"]
            ]
            jobs = {one["job_id"] for one in counted}
            expected = len(counted) >= _IN_A_ROW and len(jobs) >= _JOBS
            if expected != (fault["quarantine_reason"] is not None):
                was = "was not" if expected else "was"
                said = f"{key} {was} quarantined at {fault['at']:.2f} by {len(counted)} faults of {len(jobs)} jobs"
                yield violated(rule, history, fault["job_id"], said)
            elif expected and (success := _success_between(history, key, counted[0]["at"], fault["at"])) is not None:
                said = f"{key} was quarantined at {fault['at']:.2f}, although {success} succeeded there between"
                yield violated(rule, history, success, said)


def a_quarantined_device_takes_nothing(history: History) -> Iterator[Violation]:
    """No attempt starts on a device between its quarantine and the request to release it."""
    released: dict[str, list[float]] = defaultdict(list)
    for event in history.of("release_asked"):
        released[event.facts["device"]].append(event.at)
    for key, faults in _by_device(history).items():
        for fault in faults:
            if fault["quarantine_reason"] is None:
                continue
            until = min((at for at in released[key] if at > fault["at"]), default=float("inf"))
            for row in history.remains.rows:
                started = row["started_at"] if row.get("device_key") == key else None
                if started is not None and fault["at"] + _SLACK_SECONDS < started < until:
                    said = f"it started on {key} at {started:.2f}, quarantined at {fault['at']:.2f}"
                    yield violated(a_quarantined_device_takes_nothing, history, str(row["id"]), said)


def a_device_runs_one_job_and_finishes_one(history: History) -> Iterator[Violation]:
    """Of the attempts that succeeded on a device, one at a time holds it, and one at a time is being finished."""
    rule = a_device_runs_one_job_and_finishes_one
    of_device: dict[str, list[Row]] = defaultdict(list)
    for row in history.remains.rows:
        if row["type"] == GENERATION and row["status"] == "succeeded" and row.get("device_key") is not None:
            of_device[str(row["device_key"])].append(row)
    for key, rows in of_device.items():
        held = [(row["started_at"], row.get("released_at") or row["finished_at"], str(row["id"])) for row in rows]
        behind = [(row["released_at"], row["finished_at"], str(row["id"])) for row in rows if row.get("released_at")]
        for what, spans in (("held", sorted(held)), ("was being finished for", sorted(behind))):
            for (_, until, before), (since, _, job) in pairwise(spans):
                if since < until:
                    yield violated(rule, history, job, f"it {what} {key} from {since:.2f}, {before} until {until:.2f}")


def _by_device(history: History) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for fault in sorted(history.remains.device_faults, key=lambda fault: float(fault["at"])):
        found[fault["device_key"]].append(fault)
    return found


def _success_between(history: History, key: str, since: float, until: float) -> str | None:
    for row in history.remains.rows:
        succeeded = row["type"] == GENERATION and row["status"] == "succeeded" and not row["mock"]
        if succeeded and row.get("device_key") == key and since < row["finished_at"] < until:
            return str(row["id"])
    return None
