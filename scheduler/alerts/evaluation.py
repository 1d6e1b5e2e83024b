"""Applies the alert rules: compares what they find with the open alerts and says what changes."""

from datetime import datetime, timedelta

from scheduler.alerts.fact_types import Facts
from scheduler.alerts.found import Found
from scheduler.alerts.rules import RULES, Rule
from shared.cluster.alerts import Cause, Changes, Known, Watch
from shared.settings import Settings


def evaluate(facts: Facts, settings: Settings, known: Known, now: datetime) -> Changes:
    """Return the changes: watched causes, and alerts that open, continue and resolve."""
    since = {(watch.rule, watch.subject): watch for watch in known.watches}
    watches: list[Watch] = []
    opened: list[Cause] = []
    still: list[Cause] = []
    resolved: list[tuple[str, str]] = []
    for rule in RULES:
        own = {subject for name, subject in known.open if name == rule.name}
        causes = rule.find(facts, settings, own)
        if causes is None:
            watches += [watch for watch in known.watches if watch.rule == rule.name]
            continue
        found = {one.subject: one for one in causes}
        for subject, one in found.items():
            watch = since.get((rule.name, subject))
            began = watch.since if watch is not None else now
            watches.append(Watch(rule.name, subject, began))
            if subject in own:
                still.append(_cause(rule, one))
            elif now - began >= timedelta(seconds=rule.for_seconds(settings)):
                opened.append(_cause(rule, one))
        for subject in own - found.keys():
            watch = since.get((rule.name, subject))
            gone = (watch.gone_since if watch is not None else None) or now
            if now - gone >= timedelta(seconds=rule.gone_seconds):
                resolved.append((rule.name, subject))
            else:
                watches.append(Watch(rule.name, subject, watch.since if watch is not None else now, gone))
    names = {rule.name for rule in RULES}
    resolved += [key for key in known.open if key[0] not in names]  # of a rule that no longer exists
    return Changes(tuple(watches), tuple(opened), tuple(still), tuple(sorted(resolved)))


def _cause(rule: Rule, found: Found) -> Cause:
    return Cause(
        rule=rule.name,
        subject=found.subject,
        severity=found.severity or rule.severity,
        title=found.title,
        message=found.message,
        suggested_action=found.suggested_action,
        action_required=rule.action_required,
        model_id=found.model_id,
    )
