"""Guarantees of what is left: files, keys, processes and leases. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.soak.history import History
from tests.soak.rules.violations import GENERATION, Violation, accepted_jobs, rows_of, violated


def no_file_is_left(history: History) -> Iterator[Violation]:
    """The store holds only files that rows name: no orphans, no files of superseded attempts, no partial files."""
    rows = rows_of(history)
    for area, job, attempt, name in history.remains.files:
        row = rows.get(job)
        if row is not None and area == "inputs" and (row["params"].get("image") or "").endswith(name):
            continue
        named = [item["name"] for item in (row["result"] or {}).get("artifacts", ())] if row is not None else []
        if row is not None and row["status"] == "succeeded" and attempt == row["attempt"] and name in named:
            continue
        yield violated(no_file_is_left, history, job, f"{area}/{job}/{attempt}/{name}")
    held = {(job, attempt, name) for area, job, attempt, name in history.remains.files if area == "artifacts"}
    for job, row in sorted(rows.items()):
        if row["type"] != GENERATION or row["status"] != "succeeded" or row["hidden"]:
            continue
        lost = [item["name"] for item in row["result"]["artifacts"] if (job, row["attempt"], item["name"]) not in held]
        if lost:
            yield violated(no_file_is_left, history, job, f"its row names files that are not there: {lost}")


def no_frames_are_left(history: History) -> Iterator[Violation]:
    """A job that has ended leaves no folder of frames."""
    for name in history.remains.handovers:
        yield violated(no_frames_are_left, history, name.split(".")[1], f"finishing/{name}")


def no_partial_download_is_left(history: History) -> Iterator[Violation]:
    """Partial files of a download are removed when it is cancelled or succeeds; a failed one keeps them."""
    newest: dict[str, Mapping[str, Any]] = {}
    for _, row in sorted(rows_of(history).items()):
        if row["type"] == "download" and not row["hidden"]:
            newest[row["model_id"]] = row
    for model, path in history.remains.partials:
        row = newest.get(model)
        if row is None or row["status"] in ("succeeded", "cancelled"):
            status = row["status"] if row is not None else "not there"
            job = row["id"] if row is not None else None
            yield violated(no_partial_download_is_left, history, job, f"{path}; the download is {status}")


def no_key_stays_in_redis(history: History) -> Iterator[Violation]:
    """Every key of a job in Redis expires."""
    jobs = sorted(accepted_jobs(history) | set(rows_of(history)))
    for key, seconds in history.remains.redis_keys:
        of = next((job for job in jobs if job in key), None)
        if of is not None and seconds < 0:
            yield violated(no_key_stays_in_redis, history, of, f"{key} is kept for ever")


def no_process_is_left(history: History) -> Iterator[Violation]:
    """Every process of the home descends from the supervisor, and none outlives the stop."""
    for process in history.remains.strangers:
        yield Violation("no_process_is_left", None, f"the supervisor does not know {process}")
    for process in history.remains.left_after_stop:
        yield Violation("no_process_is_left", None, f"it outlived the stop: {process}")


def a_running_job_is_alive(history: History) -> Iterator[Violation]:
    """No row says `running` where nothing runs: at the end its lease would have expired."""
    last = max((event.at for event in history.events), default=0.0)
    for job, row in sorted(rows_of(history).items()):
        if row["status"] == "running" and (row["lease_until"] is None or row["lease_until"] < last):
            yield violated(a_running_job_is_alive, history, job, f"it runs on {row['worker']} without a lease")


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
    for job, row in sorted(rows_of(history).items()):
        for since, until in closed:
            if row["started_at"] is not None and since < row["started_at"] < until:
                said = f"it started at {row['started_at']:.2f}, drained from {since:.2f} to {until:.2f}"
                yield violated(a_drained_node_takes_nothing, history, job, said)


def no_answer_is_a_fault(history: History) -> Iterator[Violation]:
    """Whatever is unavailable, the API never answers 500."""
    for event in history.of("refused"):
        said = f"{event.facts['to']} was answered {event.facts['code']}: {event.facts['text']}"
        yield violated(no_answer_is_a_fault, history, event.job, said, event)
