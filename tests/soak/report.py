"""Report a run: on the terminal, as `soak-report.json`, and as a row of the table in docs/fault-report.md."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.soak.checker import RULES, Violation
from tests.soak.history import History

_SHOWN = 6  # violations of one rule on the terminal; the report has them all


def facts(
    history: History, violations: Sequence[Violation], *, seed: int, database: str, seconds: float, commit: str
) -> dict[str, Any]:
    struck = Counter(event.facts["name"] for event in history.of("fault"))
    ends = Counter(row["status"] for row in history.remains.rows)
    return {
        "seed": seed,
        "database": database,
        "commit": commit,
        "seconds": round(seconds),
        "jobs": len({event.job for event in history.of("submit") if event.job}),
        "ends": dict(ends),
        "attempts_beyond_the_first": sum(max(0, row["attempt"] - 1) for row in history.remains.rows),
        "device_faults": dict(Counter(fault["kind"] for fault in history.remains.device_faults)),
        "quarantines": sum(fault["quarantine_reason"] is not None for fault in history.remains.device_faults),
        "deleted": len(history.by_job("delete")),
        "questions_without_an_answer": sum(1 for _ in history.of("lost")),
        "webhook_messages": sum(1 for _ in history.of("message")),
        "faults": sum(struck.values()),
        "faults_by_kind": dict(sorted(struck.items())),
        "faults_missed": dict(Counter(event.facts["name"] for event in history.of("missed"))),
        "harness": [str(event) for event in history.of("harness")],
        "violations": len(violations),
        "violations_by_rule": dict(Counter(one.rule for one in violations)),
        "violation_list": [dataclasses.asdict(one) for one in violations],
    }


def row(said: dict[str, Any]) -> str:
    """Return one row of the table of runs."""
    broken = ", ".join(f"{count} {rule}" for rule, count in said["violations_by_rule"].items()) or "none"
    columns = (
        said["commit"], said["seed"], said["database"], said["jobs"], said["faults"], _clock(said["seconds"]), broken,
    )  # fmt: skip
    return "| " + " | ".join(str(column) for column in columns) + " |"


def tell(said: dict[str, Any], violations: Sequence[Violation], kept: Path) -> str:
    lines, told = [""], Counter[str]()
    for one in violations:
        told[one.rule] += 1
        if told[one.rule] > _SHOWN:
            continue
        lines.append(f"VIOLATION {one.rule}: {one.said}" + (f" (job {one.job})" if one.job else ""))
        lines += [f"    {line}" for line in one.lines]
    lines += [
        f"seed {said['seed']} on {said['database']}: {said['jobs']} jobs, {said['faults']} faults, "
        f"{_clock(said['seconds'])}",
        f"  ends: {said['ends']}, deleted: {said['deleted']}, later attempts: {said['attempts_beyond_the_first']}",
        f"  lost answers: {said['questions_without_an_answer']}, webhook messages: {said['webhook_messages']}",
        f"  faults of devices: {said['device_faults'] or 'none'}, quarantines: {said['quarantines']}",
        *(f"  {count:3} x {name}" for name, count in said["faults_by_kind"].items()),
        *(f"  harness: {line}" for line in said["harness"]),
        f"  promises broken: {said['violations_by_rule'] or 'none'} of {len(RULES)}",
        row(said),
        f"history and report: {kept}",
    ]
    return "\n".join(lines)


def save(said: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(said, indent=2, default=str) + "\n", encoding="utf-8")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"
