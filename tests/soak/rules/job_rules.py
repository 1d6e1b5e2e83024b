"""Guarantees of each job: its end, its files, and what its clients were told. Pure."""

import json
from collections import defaultdict
from collections.abc import Iterator

from tests.soak.history import Event, History
from tests.soak.rules.violations import (
    ENDS,
    GENERATION,
    Violation,
    accepted_jobs,
    rows_of,
    says_end,
    types_of,
    violated,
)

UNFORESEEN_ERROR = "an error in a generation"  # the fault that is one


def every_accepted_job_ends(history: History) -> Iterator[Violation]:
    """An accepted job ends as succeeded, failed or cancelled."""
    rows = rows_of(history)
    for job in sorted(accepted_jobs(history)):
        row = rows.get(job)
        if row is not None and row["status"] not in ENDS:
            yield violated(every_accepted_job_ends, history, job, f"it is still {row['status']}")
    for job, row in sorted(rows.items()):
        if job not in accepted_jobs(history) and row["status"] not in ENDS:
            said = f"a job that was not submitted by the load ({row['type']}) is still {row['status']}"
            yield violated(every_accepted_job_ends, history, job, said)


def no_job_fails_without_a_cause(history: History) -> Iterator[Violation]:
    """Only as many jobs fail by an unforeseen error as such errors were ordered."""
    ordered = sum(event.facts["name"] == UNFORESEEN_ERROR for event in history.of("fault"))
    failed = [
        job for job, row in sorted(rows_of(history).items()) if (row["error"] or {}).get("code") == "internal_error"
    ]
    if len(failed) > ordered:
        said = f"{len(failed)} jobs failed by an unforeseen error, and {ordered} were ordered"
        yield violated(no_job_fails_without_a_cause, history, failed[0], said)


def an_end_stays(history: History) -> Iterator[Violation]:
    """An ended job does not change: every later observation shows the same end."""
    for job, seen in history.by_job("see", "message").items():
        ended: Event | None = None
        for event in seen:
            status = event.facts.get("status")
            if event.kind == "see" and event.facts["code"] != 200:
                continue
            if ended is not None and event.asked >= ended.at and status != ended.facts["status"]:
                if event.kind == "message" and status not in ENDS:
                    continue  # what was to be said on the way may come late
                said = f"seen {ended.facts['status']} at {ended.at:.2f}, and {status} at {event.at:.2f}"
                yield violated(an_end_stays, history, job, said)
                break
            if ended is None and status in ENDS:
                ended = event


def all_tell_the_same_end(history: History) -> Iterator[Violation]:
    """Poll, events, list, webhook and the row report the same end."""
    rows = rows_of(history)
    for job, seen in history.by_job("see", "message").items():
        told = {event.facts.get("by", "webhook"): event.facts["status"] for event in seen if says_end(event)}
        row = rows.get(job)
        if row is not None and told:
            told["row"] = row["status"]
        if len(set(told.values())) > 1:
            yield violated(all_tell_the_same_end, history, job, f"{told}")


def an_attempt_never_falls(history: History) -> Iterator[Violation]:
    """The number of a job's attempt only rises."""
    for job, seen in history.by_job("see").items():
        highest: Event | None = None
        for event in seen:
            attempt = event.facts.get("attempt")
            if attempt is None:
                continue
            if highest is not None and event.asked >= highest.at and attempt < highest.facts["attempt"]:
                said = f"attempt {highest.facts['attempt']} was followed by attempt {attempt}"
                yield violated(an_attempt_never_falls, history, job, said)
                break
            if highest is None or attempt > highest.facts["attempt"]:
                highest = event


def one_use_for_each_generation(history: History) -> Iterator[Violation]:
    """A generation that has ended is one use, with its outcome and nothing else is. Placeholder output counts too."""
    uses: dict[str, list[str]] = defaultdict(list)
    for job, outcome in history.remains.uses:
        uses[job].append(outcome)
    rows, types = rows_of(history), types_of(history)
    for job, row in rows.items():
        types.setdefault(job, row["type"])
    for job, type in sorted(types.items()):
        row = rows.get(job)
        has_ended = row is None or row["status"] in ENDS
        wanted = 1 if type == GENERATION and has_ended else 0
        if len(uses[job]) != wanted:
            said = f"{len(uses[job])} uses of a {type} that {'has' if has_ended else 'has not'} ended"
            yield violated(one_use_for_each_generation, history, job, said)
        elif wanted and row is not None and uses[job] != [row["status"]]:
            said = f"the use says {uses[job][0]}, the row {row['status']}"
            yield violated(one_use_for_each_generation, history, job, said)


def what_is_served_is_the_winners(history: History) -> Iterator[Violation]:
    """A job that succeeded serves every file of its result, and each has the checksum that the result names."""
    served = history.by_job("artifact")
    for job, row in sorted(rows_of(history).items()):
        if row["type"] != GENERATION or row["status"] != "succeeded" or row["hidden"]:
            continue
        for event in served.get(job, []):
            facts = event.facts
            if facts["code"] != 200:
                said = f"{facts['name']} is answered {facts['code']}"
            elif facts["sha256"] != facts["promised"]:
                said = f"{facts['name']} has another checksum than its result names"
            else:
                continue
            yield violated(what_is_served_is_the_winners, history, job, said)


def equal_jobs_make_equal_bytes(history: History) -> Iterator[Violation]:
    """Two jobs with the same manifest (parameters, seed, profile, libraries, device) make the same bytes."""
    first: dict[str, tuple[str, str]] = {}
    for job, row in sorted(rows_of(history).items()):
        result = row["result"] or {}
        videos = [item["sha256"] for item in result.get("artifacts", ()) if item.get("kind") == "video"]
        if row["type"] != GENERATION or row["status"] != "succeeded" or len(videos) != 1 or not result.get("manifest"):
            continue
        manifest = json.dumps(result["manifest"], sort_keys=True)
        other, video = first.setdefault(manifest, (job, videos[0]))
        if video != videos[0]:
            yield violated(equal_jobs_make_equal_bytes, history, job, f"another video than that of {other}")


def every_end_reaches_its_webhook(history: History) -> Iterator[Violation]:
    """A job's webhook receives its end at least once, always under one id and with the same content."""
    told = history.by_job("message")
    rows = rows_of(history)
    wanted = {event.job for event in history.of("submit") if event.job and event.facts.get("webhook")}
    wanted |= {job for job, row in rows.items() if row["webhook_url"]}
    for job in sorted(wanted):
        row = rows.get(job)
        if row is not None and row["status"] not in ENDS:
            continue
        ends = [event for event in told.get(job, []) if event.facts["status"] in ENDS]
        if not any(200 <= (event.facts["answered"] or 0) < 300 for event in ends):
            states = [(one["state"], one["tries"]) for one in history.remains.messages if one["job_id"] == job]
            said = f"it was told {len(ends)} times, and never with success; messages: {states}"
        elif len({event.facts["id"] for event in ends}) > 1:
            said = f"its end came under {sorted({event.facts['id'] for event in ends})}"
        elif len({event.facts["digest"] for event in ends}) > 1:
            said = "copies of one message differ"
        else:
            continue
        yield violated(every_end_reaches_its_webhook, history, job, said)


def a_cancel_is_obeyed(history: History) -> Iterator[Violation]:
    """A cancel that was answered 202 takes effect: the job ends cancelled, unless it had ended before."""
    rows = rows_of(history)
    for job, asked in sorted(history.by_job("cancel").items()):
        taken = [event for event in asked if event.facts["code"] == 202]
        row = rows.get(job)
        if not taken or row is None or row["status"] == "cancelled":
            continue
        if row["finished_at"] is not None and row["finished_at"] < taken[0].asked:
            continue
        yield violated(a_cancel_is_obeyed, history, job, f"cancelled with 202, and now {row['status']}")


def a_pause_is_obeyed(history: History) -> Iterator[Violation]:
    """A download whose pause was acknowledged is paused until it is resumed.

    Where the answer says that it still runs, it may yet reach its end; it does not go on for long or start again.
    """
    for job, events in history.by_job("manage", "see", "resume_asked", "cancel", "delete_asked").items():
        for place, pause in enumerate(events):
            if pause.kind != "manage" or pause.facts["action"] != "pause" or pause.facts["code"] != 200:
                continue
            held = []
            for event in events[place + 1 :]:
                if event.kind != "see":
                    break
                if event.facts["code"] == 200 and event.asked >= pause.at:
                    held.append(event)
            may_be = {"paused", *(ENDS if not pause.facts["success"] else {"cancelled"})}
            if pause.facts["success"] and pause.facts["current_status"] != "paused":
                may_be |= ENDS  # it ended before it could pause; the response shows that
            paused = [event for event in held if event.facts["status"] == "paused"]
            if pause.facts["success"] and pause.facts["current_status"] == "paused":
                wrong = [event for event in held if event.facts["status"] not in may_be]
            elif paused:
                later = [event for event in held if event.asked >= paused[0].at]
                wrong = [event for event in later if event.facts["status"] not in may_be]
            else:
                wrong = [event for event in held[-1:] if event.facts["status"] not in may_be]
            if wrong:
                said = f"paused at {pause.at:.2f}, and {wrong[0].facts['status']} at {wrong[0].asked:.2f}"
                yield violated(a_pause_is_obeyed, history, job, said)


def one_key_is_one_job(history: History) -> Iterator[Violation]:
    """Under one Idempotency-Key there is one job; the same key with another body is refused as 422."""
    of_key: dict[str, list[Event]] = defaultdict(list)
    for event in history.of("submit"):
        of_key[event.facts["key"]].append(event)
    deleted = {job: events[0].asked for job, events in history.by_job("delete_asked").items()}
    for key, events in sorted(of_key.items()):
        good = [event for event in events if event.job is not None and event.facts["by"] != "other_body"]
        others = [event for event in events if event.facts["by"] == "other_body"]
        made = {event.job for event in good}
        if len(made) > 1:
            yield violated(one_key_is_one_job, history, good[0].job, f"the key {key} has made {sorted(map(str, made))}")
        for event in others:
            freed = any(deleted.get(str(job), float("inf")) <= event.at for job in made)
            if event.facts["code"] != 422 and good and not freed:
                said = f"the key {key} was taken with another body: {event.facts['code']}"
                yield violated(one_key_is_one_job, history, event.job or good[0].job, said)


def an_accepted_job_is_there(history: History) -> Iterator[Violation]:
    """A job that was answered 200 or 202 exists until it is deleted."""
    deleted = {job: events[0].asked for job, events in history.by_job("delete_asked").items()}
    rows, seen = rows_of(history), history.by_job("see")
    for job in sorted(accepted_jobs(history)):
        gone_from = deleted.get(job, float("inf"))
        gone = [event for event in seen.get(job, []) if event.facts["code"] == 404 and event.at < gone_from]
        if gone:
            yield violated(an_accepted_job_is_there, history, job, f"it was not there at {gone[0].at:.2f}")
        elif gone_from == float("inf") and (job not in rows or rows[job]["hidden"]):
            yield violated(an_accepted_job_is_there, history, job, "it has no row at the end")


def a_deleted_job_disappears(history: History) -> Iterator[Violation]:
    """A deleted job answers 404 from then on, and at the end its row and files are gone."""
    rows, seen = rows_of(history), history.by_job("see")
    with_files = {job for _, job, _, _ in history.remains.files}
    for job, events in sorted(history.by_job("delete").items()):
        done = [event for event in events if event.facts["code"] in (204, 404)]
        if not done:
            yield violated(a_deleted_job_disappears, history, job, f"DELETE was answered {events[0].facts['code']}")
            continue
        later = [event for event in seen.get(job, []) if event.asked >= done[0].at and event.facts["code"] == 200]
        if later:
            said = f"seen {later[0].facts['status']} by {later[0].facts['by']} after it was deleted"
        elif job in rows:
            said = f"its row is there at the end: {rows[job]['status']}, hidden {rows[job]['hidden']}"
        elif job in with_files:
            said = "its files are there at the end"
        else:
            continue
        yield violated(a_deleted_job_disappears, history, job, said)
