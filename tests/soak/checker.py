"""Check a history against the guarantees of wanworks, one function per guarantee. Pure."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.soak.history import Event, History

ENDS = frozenset({"succeeded", "failed", "cancelled"})
GENERATION = "generation"
_AROUND_SECONDS = 3.0  # faults so near to an event are shown with it
_LINES = 24  # of a violation; the whole history is kept beside the report


@dataclass(frozen=True)
class Violation:
    """One violated guarantee, with the lines of the history that show it."""

    rule: str
    job: str | None
    said: str
    lines: tuple[str, ...] = ()


Rule = Callable[[History], Iterator[Violation]]


def check(history: History) -> list[Violation]:
    """Return every violation of every rule."""
    return [found for rule in RULES for found in rule(history)]


def every_accepted_job_ends(history: History) -> Iterator[Violation]:
    """An accepted job ends as succeeded, failed or cancelled."""
    rows = _rows(history)
    for job in sorted(_accepted(history)):
        row = rows.get(job)
        if row is not None and row["status"] not in ENDS:
            yield _violation(every_accepted_job_ends, history, job, f"it is still {row['status']}")
    for job, row in sorted(rows.items()):
        if job not in _accepted(history) and row["status"] not in ENDS:
            said = f"a job that nobody asked for by name ({row['type']}) is still {row['status']}"
            yield _violation(every_accepted_job_ends, history, job, said)


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
                yield _violation(an_end_stays, history, job, said)
                break
            if ended is None and status in ENDS:
                ended = event


def all_tell_the_same_end(history: History) -> Iterator[Violation]:
    """Poll, events, list, webhook and the row report the same end."""
    rows = _rows(history)
    for job, seen in history.by_job("see", "message").items():
        told = {event.facts.get("by", "webhook"): event.facts["status"] for event in seen if _says_end(event)}
        row = rows.get(job)
        if row is not None and told:
            told["row"] = row["status"]
        if len(set(told.values())) > 1:
            yield _violation(all_tell_the_same_end, history, job, f"{told}")


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
                yield _violation(an_attempt_never_falls, history, job, said)
                break
            if highest is None or attempt > highest.facts["attempt"]:
                highest = event


def one_use_for_each_generation(history: History) -> Iterator[Violation]:
    """A generation that has ended is one use, with its outcome and nothing else is. Placeholder output counts too."""
    uses: dict[str, list[str]] = defaultdict(list)
    for job, outcome in history.remains.uses:
        uses[job].append(outcome)
    rows, types = _rows(history), _types(history)
    for job, row in rows.items():
        types.setdefault(job, row["type"])
    for job, type in sorted(types.items()):
        row = rows.get(job)
        has_ended = row is None or row["status"] in ENDS
        wanted = 1 if type == GENERATION and has_ended else 0
        if len(uses[job]) != wanted:
            said = f"{len(uses[job])} uses of a {type} that {'has' if has_ended else 'has not'} ended"
            yield _violation(one_use_for_each_generation, history, job, said)
        elif wanted and row is not None and uses[job] != [row["status"]]:
            said = f"the use says {uses[job][0]}, the row {row['status']}"
            yield _violation(one_use_for_each_generation, history, job, said)


def what_is_served_is_the_winners(history: History) -> Iterator[Violation]:
    """A job that succeeded serves every file of its result, and each has the checksum that the result names."""
    served = history.by_job("artifact")
    for job, row in sorted(_rows(history).items()):
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
            yield _violation(what_is_served_is_the_winners, history, job, said)


def equal_jobs_make_equal_bytes(history: History) -> Iterator[Violation]:
    """Two jobs with the same manifest (parameters, seed, profile, libraries, device) make the same bytes."""
    first: dict[str, tuple[str, str]] = {}
    for job, row in sorted(_rows(history).items()):
        result = row["result"] or {}
        videos = [item["sha256"] for item in result.get("artifacts", ()) if item.get("kind") == "video"]
        if row["type"] != GENERATION or row["status"] != "succeeded" or len(videos) != 1 or not result.get("manifest"):
            continue
        manifest = json.dumps(result["manifest"], sort_keys=True)
        other, video = first.setdefault(manifest, (job, videos[0]))
        if video != videos[0]:
            yield _violation(equal_jobs_make_equal_bytes, history, job, f"another video than that of {other}")


def every_end_reaches_its_webhook(history: History) -> Iterator[Violation]:
    """A job's webhook receives its end at least once, always under one id and with the same content."""
    told = history.by_job("message")
    rows = _rows(history)
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
        yield _violation(every_end_reaches_its_webhook, history, job, said)


def a_cancel_is_obeyed(history: History) -> Iterator[Violation]:
    """A cancel that was answered 202 takes effect: the job ends cancelled, unless it had ended before."""
    rows = _rows(history)
    for job, asked in sorted(history.by_job("cancel").items()):
        taken = [event for event in asked if event.facts["code"] == 202]
        row = rows.get(job)
        if not taken or row is None or row["status"] == "cancelled":
            continue
        if row["finished_at"] is not None and row["finished_at"] < taken[0].asked:
            continue
        yield _violation(a_cancel_is_obeyed, history, job, f"cancelled with 202, and now {row['status']}")


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
                may_be |= ENDS  # it had ended before it could pause, and the answer says so
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
                yield _violation(a_pause_is_obeyed, history, job, said)


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
            yield _violation(
                one_key_is_one_job, history, good[0].job, f"the key {key} has made {sorted(map(str, made))}"
            )
        for event in others:
            freed = any(deleted.get(str(job), float("inf")) <= event.at for job in made)
            if event.facts["code"] != 422 and good and not freed:
                said = f"the key {key} was taken with another body: {event.facts['code']}"
                yield _violation(one_key_is_one_job, history, event.job or good[0].job, said)


def an_accepted_job_is_there(history: History) -> Iterator[Violation]:
    """A job that was answered 200 or 202 exists until it is deleted."""
    deleted = {job: events[0].asked for job, events in history.by_job("delete_asked").items()}
    rows, seen = _rows(history), history.by_job("see")
    for job in sorted(_accepted(history)):
        gone_from = deleted.get(job, float("inf"))
        gone = [event for event in seen.get(job, []) if event.facts["code"] == 404 and event.at < gone_from]
        if gone:
            yield _violation(an_accepted_job_is_there, history, job, f"it was not there at {gone[0].at:.2f}")
        elif gone_from == float("inf") and (job not in rows or rows[job]["hidden"]):
            yield _violation(an_accepted_job_is_there, history, job, "it has no row at the end")


def a_deleted_job_disappears(history: History) -> Iterator[Violation]:
    """A deleted job answers 404 from then on, and at the end its row and files are gone."""
    rows, seen = _rows(history), history.by_job("see")
    with_files = {job for _, job, _, _ in history.remains.files}
    for job, events in sorted(history.by_job("delete").items()):
        done = [event for event in events if event.facts["code"] in (204, 404)]
        if not done:
            yield _violation(a_deleted_job_disappears, history, job, f"DELETE was answered {events[0].facts['code']}")
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
        yield _violation(a_deleted_job_disappears, history, job, said)


def no_file_is_left(history: History) -> Iterator[Violation]:
    """The store holds only files that rows name: no orphans, no files of superseded attempts, no partial files."""
    rows = _rows(history)
    for area, job, attempt, name in history.remains.files:
        row = rows.get(job)
        if row is not None and area == "inputs" and (row["params"].get("image") or "").endswith(name):
            continue
        named = [item["name"] for item in (row["result"] or {}).get("artifacts", ())] if row is not None else []
        if row is not None and row["status"] == "succeeded" and attempt == row["attempt"] and name in named:
            continue
        yield _violation(no_file_is_left, history, job, f"{area}/{job}/{attempt}/{name}")
    held = {(job, attempt, name) for area, job, attempt, name in history.remains.files if area == "artifacts"}
    for job, row in sorted(rows.items()):
        if row["type"] != GENERATION or row["status"] != "succeeded" or row["hidden"]:
            continue
        lost = [item["name"] for item in row["result"]["artifacts"] if (job, row["attempt"], item["name"]) not in held]
        if lost:
            yield _violation(no_file_is_left, history, job, f"its row names files that are not there: {lost}")


def no_partial_download_is_left(history: History) -> Iterator[Violation]:
    """Partial files of a download are removed when it is cancelled or succeeds; a failed one keeps them."""
    newest: dict[str, Mapping[str, Any]] = {}
    for _, row in sorted(_rows(history).items()):
        if row["type"] == "download" and not row["hidden"]:
            newest[row["model_id"]] = row
    for model, path in history.remains.partials:
        row = newest.get(model)
        if row is None or row["status"] in ("succeeded", "cancelled"):
            status = row["status"] if row is not None else "not there"
            job = row["id"] if row is not None else None
            yield _violation(no_partial_download_is_left, history, job, f"{path}; the download is {status}")


def no_key_stays_in_redis(history: History) -> Iterator[Violation]:
    """Every key of a job in Redis expires."""
    jobs = sorted(_accepted(history) | set(_rows(history)))
    for key, seconds in history.remains.redis_keys:
        of = next((job for job in jobs if job in key), None)
        if of is not None and seconds < 0:
            yield _violation(no_key_stays_in_redis, history, of, f"{key} is kept for ever")


def no_process_is_left(history: History) -> Iterator[Violation]:
    """Every process of the home descends from the supervisor, and none outlives the stop."""
    for process in history.remains.strangers:
        yield Violation("no_process_is_left", None, f"the supervisor does not know {process}")
    for process in history.remains.left_after_stop:
        yield Violation("no_process_is_left", None, f"it outlived the stop: {process}")


def a_running_job_is_alive(history: History) -> Iterator[Violation]:
    """No row says `running` where nothing runs: at the end its lease would have expired."""
    last = max((event.at for event in history.events), default=0.0)
    for job, row in sorted(_rows(history).items()):
        if row["status"] == "running" and (row["lease_until"] is None or row["lease_until"] < last):
            yield _violation(a_running_job_is_alive, history, job, f"it runs on {row['worker']} without a lease")


def a_drained_node_takes_nothing(history: History) -> Iterator[Violation]:
    """After a drain was answered, no attempt starts on the node until the drain ends."""
    begun: float | None = None
    closed: list[tuple[float, float]] = []
    for event in sorted(history.of("drain", "undrain_asked"), key=lambda event: event.at):
        if event.kind == "drain" and event.facts["code"] == 200 and begun is None:
            begun = event.at
        elif event.kind == "undrain_asked" and begun is not None:
            closed.append((begun, event.at))
            begun = None
    for job, row in sorted(_rows(history).items()):
        for since, until in closed:
            if row["started_at"] is not None and since < row["started_at"] < until:
                said = f"it started at {row['started_at']:.2f}, drained from {since:.2f} to {until:.2f}"
                yield _violation(a_drained_node_takes_nothing, history, job, said)


def no_answer_is_a_fault(history: History) -> Iterator[Violation]:
    """Whatever is unavailable, the API never answers 500."""
    for event in history.of("refused"):
        said = f"{event.facts['to']} was answered {event.facts['code']}: {event.facts['text']}"
        yield _violation(no_answer_is_a_fault, history, event.job, said, event)


RULES: tuple[Rule, ...] = (
    every_accepted_job_ends,
    an_end_stays,
    all_tell_the_same_end,
    an_attempt_never_falls,
    one_use_for_each_generation,
    what_is_served_is_the_winners,
    equal_jobs_make_equal_bytes,
    every_end_reaches_its_webhook,
    a_cancel_is_obeyed,
    a_pause_is_obeyed,
    one_key_is_one_job,
    an_accepted_job_is_there,
    a_deleted_job_disappears,
    no_file_is_left,
    no_partial_download_is_left,
    no_key_stays_in_redis,
    no_process_is_left,
    a_running_job_is_alive,
    a_drained_node_takes_nothing,
    no_answer_is_a_fault,
)


def _accepted(history: History) -> set[str]:
    return {event.job for event in history.of("submit") if event.job is not None}


def _types(history: History) -> dict[str, str]:
    return {event.job: event.facts["type"] for event in history.of("submit") if event.job is not None}


def _rows(history: History) -> dict[str, Mapping[str, Any]]:
    return {row["id"]: row for row in history.remains.rows}


def _says_end(event: Event) -> bool:
    return event.facts.get("status") in ENDS and event.facts.get("code", 200) == 200


def _violation(rule: Rule, history: History, job: str | None, said: str, at: Event | None = None) -> Violation:
    return Violation(rule.__name__, job, said, _lines(history, job, at))


def _lines(history: History, job: str | None, at: Event | None) -> tuple[str, ...]:
    """Return the events about the job, without repetitions, and the faults around it."""
    of_it: list[Event] = [event for event in history.events if event.job == job and not _is_good_file(event)]
    if job is None:
        of_it = []
    if at is not None:
        of_it = [at]
    told = [
        event
        for place, event in enumerate(of_it)
        if event.kind != "see" or place in (0, len(of_it) - 1) or _differs(event, of_it[place - 1])
    ]
    moments: Iterable[float] = [moment for event in told for moment in (event.asked, event.at)]
    faults = [
        event
        for event in history.of("fault", "undone")
        if any(abs(event.at - moment) < _AROUND_SECONDS for moment in moments)
    ]
    lines = sorted({event.number: event for event in (*told, *faults)}.items())
    row = next((row for row in history.remains.rows if row["id"] == job), None)
    shown = [str(event) for _, event in lines[-_LINES:]]
    return (*shown, *([_row_line(row)] if row is not None else []))


def _is_good_file(event: Event) -> bool:
    facts = event.facts
    return event.kind == "artifact" and facts["code"] == 200 and facts["sha256"] == facts["promised"]


def _differs(event: Event, before: Event) -> bool:
    names = ("code", "status", "attempt")
    return before.kind != "see" or any(event.facts.get(name) != before.facts.get(name) for name in names)


def _row_line(row: Mapping[str, Any]) -> str:
    names = ("type", "status", "attempt", "failures", "hidden", "worker", "started_at", "finished_at", "error")
    return "row: " + " ".join(f"{name}={row[name]}" for name in names if row.get(name) is not None)
