"""One run: load and faults on the real stack, then the checker. `python -m tests.soak`, or `make soak`.

SOAK_JOBS (400), SOAK_FAULTS (60), SOAK_SEED (drawn), SOAK_DATABASE (sqlite or postgresql), SOAK_OUT (soak), SOAK_ONLY
(faults whose name has that in it). What happens follows from these. The exit code is 1 where a promise was broken; then
the home is kept with its logs.
`python -m tests.soak check FILE` holds a kept history against the promises again.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.soak import faults, plan, remains, report
from tests.soak.checker import check
from tests.soak.history import History, Recorder, Remains
from tests.soak.installation import Installation
from tests.soak.load import Load
from tests.soak.receiver import Receiver

_END_SECONDS = 180.0  # by when a job has to have ended, once the last fault is undone
_EACH_SECONDS = 1.0  # and so much more for each that still waits then
_MESSAGES_SECONDS = 120.0
_TOLD_SECONDS = 30.0


def main() -> int:
    if sys.argv[1:2] == ["check"]:
        return _check_again(Path(sys.argv[2]))
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
    database = os.environ.get("SOAK_DATABASE") or "sqlite"
    if database not in ("sqlite", "postgresql"):
        sys.exit(f"SOAK_DATABASE: {database!r} is neither sqlite nor postgresql")
    jobs, strikes = int(os.environ.get("SOAK_JOBS") or 400), int(os.environ.get("SOAK_FAULTS") or 60)
    only = os.environ.get("SOAK_ONLY") or ""
    weights = {fault.name: fault.weight for fault in faults.table(database).values() if only in fault.name}
    if not weights:
        sys.exit(f"SOAK_ONLY: no fault's name has {only!r} in it; there are: {', '.join(faults.table(database))}")
    made = plan.draw(seed, jobs, strikes, weights)
    out = Path(os.environ.get("SOAK_OUT") or "soak") / f"{database}-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{seed}-"))
    folder.chmod(0o755)
    print(
        f"seed {seed}: {jobs} jobs and {strikes} faults on {database} in {made.seconds:.0f} s; home in {folder}",
        flush=True,
    )
    began = time.monotonic()
    history = _leg(folder, made, database)
    violations = check(history)
    said = report.facts(
        history, violations, seed=seed, database=database, seconds=time.monotonic() - began, commit=_commit()
    )
    history.save(out / "history.jsonl")
    report.save(said, out / "soak-report.json")
    print(report.tell(said, violations, out))
    if violations or history_is_cut(history):
        print(f"the home is kept: {folder}")
        return 1
    subprocess.run(["rm", "-rf", str(folder)], check=False)
    return 0


def history_is_cut(history: History) -> bool:
    """Return whether the harness itself failed, so that the absence of violations proves nothing."""
    return not history.remains.rows


def _leg(folder: Path, made: plan.Plan, database: str) -> History:
    stack = Installation(folder, made, database)
    recorder = Recorder()
    receiver = Receiver(recorder).start()
    left, stopping = Remains(), threading.Event()
    try:
        stack.start()
        recorder = receiver.recorder = Recorder()
        load = Load(made, stack.url, recorder, receiver)
        users = threading.Thread(target=lambda: asyncio.run(load.run(float("inf"))), name="users")
        users.start()
        teller = threading.Thread(target=_tell, args=(recorder, load, stopping), daemon=True)
        teller.start()
        striker = faults.Striker(faults.Ground(stack, receiver), recorder)
        striker.run(made.strikes, stopping)
        recorder.note("settled")
        _bring_up(stack, recorder)
        load.set_deadline(max(recorder.now, made.seconds) + _END_SECONDS + _EACH_SECONDS * len(load.unended))
        users.join()
        recorder.note("users_done", unended=len(load.unended))
        left = _end(stack, load, recorder)
    except KeyboardInterrupt:
        stopping.set()
        print("stopped", file=sys.stderr)
        raise
    finally:
        stopping.set()
        receiver.stop()
        stack.close(keep=True)
    return History(recorder.events(), left)


def _bring_up(stack: Installation, recorder: Recorder) -> None:
    """Start the stack as an operator would, if the last fault left it down."""
    deadline = time.monotonic() + 90
    while not stack.is_up() and time.monotonic() < deadline:
        if stack.process is None or stack.process.poll() is not None:
            recorder.note("harness", name="the supervisor had gone", what="started again")
            stack.start()
        time.sleep(1.0)


def _end(stack: Installation, load: Load, recorder: Recorder) -> Remains:
    """Wait for webhooks, observe every job once more, run retention and sweep, and read what remains."""
    load.set_deadline(recorder.now + 600)
    deadline = time.monotonic() + _MESSAGES_SECONDS
    asyncio.run(load.replay_dead_messages())
    while remains.waiting_messages(stack) and time.monotonic() < deadline:
        time.sleep(1.0)
    asyncio.run(load.look_at_everything())
    recorder.note("tidied", what=remains.tidy(stack))
    left = remains.collect(stack, recorder)
    began = time.monotonic()
    code = stack.stop(60)
    recorder.note("stopped", code=code, seconds=round(time.monotonic() - began, 1))
    time.sleep(0.5)
    outlived = (*stack.outlived, *(f"{pid} (at the end)" for pid in stack.processes()))
    return Remains(**{**vars(left), "left_after_stop": outlived})


def _tell(recorder: Recorder, load: Load, stopping: threading.Event) -> None:
    while not stopping.wait(_TOLD_SECONDS):
        events = recorder.events()
        count = sum(1 for event in events if event.kind == "fault")
        jobs = len({event.job for event in events if event.kind == "submit" and event.job})
        print(
            f"  {recorder.now:5.0f} s: {jobs} jobs accepted, {len(load.unended)} under way, {count} faults", flush=True
        )


def _check_again(path: Path) -> int:
    history = History.load(path)
    violations = check(history)
    for one in violations:
        print(f"VIOLATION {one.rule}: {one.said} (job {one.job})")
        print("".join(f"    {line}\n" for line in one.lines))
    print(f"{len(violations)} violations")
    return 1 if violations else 0


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
