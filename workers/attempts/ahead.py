"""Begin a device's next job while the one before it still ends.

A job needs its device until its last frame is decoded. Meanwhile a thread looks up which job is dispatched to the
device next, lets the handler begin it, and claims it once the job before has left the device: a device never has two
rows. What was begun has no effect outside of this process before the claim. The dispatch message, which Celery
delivers only after the task before has ended, then finds the attempt running and waits for its end.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future

from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import AttemptStopped, Cancelled, DeviceFailed, JobFailed, StoreFull, Unavailable
from shared.jobs import dispatch

log = logging.getLogger("wanworks.ahead")

_LOOK_SECONDS = 0.2
_EXPECT_SECONDS = 2.0


class Turn:
    """A job's turn on the device, as the next job waits for it. Safe to call from any thread."""

    def __init__(self) -> None:
        self._device_free, self._ended = threading.Event(), threading.Event()
        self.decoded = False  # it has left the device as a successful job does

    def free_device(self, *, decoded: bool) -> None:
        """Let the next job use the device. `decoded`: whether it may begin before this one has ended."""
        if not self._device_free.is_set():
            self.decoded = decoded
            self._device_free.set()

    def end(self) -> None:
        """Let the next job be claimed: this one has left the device by its row, or has ended."""
        self.free_device(decoded=False)
        self._ended.set()

    def uses_device(self) -> bool:
        return not self._device_free.is_set()

    def wait_until_free(self, timeout: float | None = None) -> bool:
        """Wait until the device is free, at most so many seconds. Return whether the next job may begin."""
        self._device_free.wait(timeout)
        return self.decoded

    def wait_until_ended(self) -> None:
        self._ended.wait()


class Ahead:
    """The jobs of one device that were begun before their dispatch message came."""

    def __init__(self, database: Database, device_key: str) -> None:
        self._database = database
        self._device_key = device_key
        self._lock = threading.Lock()
        self._running: dict[str, Future[bool | None]] = {}
        self._turns: dict[str, Turn] = {}
        self._answered: str | None = None  # the job whose message was answered last
        self.run: Callable[[str, str], bool | None] = lambda _job_type, _job_id: None
        """Claims and runs a job (type, id), as the runner sets it. Returns None if the job could not be claimed."""
        self.end_process: Callable[[str], object] = lambda _reason: None
        """Ends this process, with the reason, after the device has failed."""

    def result(self, job_id: str) -> bool | None:
        """Answer a dispatch message: wait for the end of a job that was begun ahead, and return or raise as its run.

        Return None if it was not begun, or could not be claimed. Other jobs that were begun end first: their messages
        were lost, and they hold the device. Return False, without waiting, for a message that does not apply any more.
        """
        with self._lock:
            self._answered = job_id
            mine = self._running.pop(job_id, None)
        # After a run that ended before its message came, the job may have been dispatched again: the claim decides.
        if mine is not None and (not mine.done() or _has_ended_job(mine)):
            return mine.result()
        # As long as this job is dispatched to the device no other one is, so nothing else is begun meanwhile.
        while others := [run for run in list(self._running.values()) if not run.done()]:
            # It may be dispatched again a moment later, and must not be claimed by this message beside the others.
            # That dispatch sends a message of its own.
            if not self._is_dispatched(job_id):
                return False
            futures.wait(others, timeout=_EXPECT_SECONDS)
        return None

    def holds(self, job_id: str, turn: Turn) -> None:
        """Record that the job, which is claimed, has this turn on the device."""
        self._turns[job_id] = turn

    def end_turn(self, job_id: str) -> None:
        """End the turn of a job whose row says that it has left the device or has ended."""
        turn = self._turns.pop(job_id, None)
        if turn is not None:
            turn.end()

    def look(self, turn: Turn, begin: Callable[[Job, Turn], bool], abandon: Callable[[str], None]) -> None:
        """Look for the next job in a thread, begin it and run it after this turn.

        `begin` returns whether it has begun the job; `abandon` drops what it has begun.
        """
        own = next((job_id for job_id, its_turn in self._turns.items() if its_turn is turn), None)
        # Until the job is found, only this job's own message may be answered: any other one takes the device.
        answered = (self._answered, own)
        threading.Thread(target=self._follow, args=(turn, answered, begin, abandon), name="ahead", daemon=True).start()

    def expect(self, turn: Turn, prepare: Callable[[Job], None]) -> None:
        """Call `prepare`, in a thread, with each job that is dispatched to the device while this turn needs it.

        The job may still be recalled, so `prepare` may only do what does not matter then.
        """
        threading.Thread(target=self._expect, args=(turn, prepare), name="expect", daemon=True).start()

    def _expect(self, turn: Turn, prepare: Callable[[Job], None]) -> None:
        expected = None
        while turn.uses_device():
            job = self._dispatched()
            if job is not None and job.id != expected:
                expected = job.id
                try:
                    prepare(job)
                except Exception as error:  # it only saves time
                    log.info("job %s: it cannot be prepared for: %r", job.id, error)
            turn.wait_until_free(_EXPECT_SECONDS)

    def _follow(
        self,
        turn: Turn,
        answered: tuple[str | None, str | None],
        begin: Callable[[Job, Turn], bool],
        abandon: Callable[[str], None],
    ) -> None:
        job = self._next(turn)
        if job is None:
            return
        run: Future[bool | None] = Future()
        with self._lock:
            if self._answered not in answered or job.id in (self._answered, *self._running):
                return
            self._running = {job_id: earlier for job_id, earlier in self._running.items() if not earlier.done()}
            self._running[job.id] = run
        ended = None
        try:
            if self._begun(job, turn, begin):
                turn.wait_until_ended()
                try:
                    ended = self.run(job.type, job.id) if turn.decoded else None
                finally:
                    abandon(job.id)  # nothing is left of it unless the claim failed
        except DeviceFailed as error:
            self.end_process(str(error))
            run.set_exception(error.with_traceback(None))
        except BaseException as error:
            if not isinstance(error, AttemptStopped | JobFailed):
                log.warning("job %s: %r", job.id, error)
            # The runner has logged it. Its stack would keep the frames of the video.
            clear_stack(error)
            run.set_exception(error.with_traceback(None))
        else:
            run.set_result(ended)

    def _begun(self, job: Job, turn: Turn, begin: Callable[[Job, Turn], bool]) -> bool:
        try:
            return begin(job, turn)
        except Exception as error:  # the usual way repeats it, and reports it
            log.info("job %s: it cannot begin ahead: %r", job.id, error)
            return False

    def _next(self, turn: Turn) -> Job | None:
        """Return the job that is dispatched to this device; None if there is none while the turn needs the device."""
        while True:
            needed = turn.uses_device()
            job = self._dispatched()
            if job is not None or not needed:
                return job
            time.sleep(_LOOK_SECONDS)

    def _is_dispatched(self, job_id: str) -> bool:
        try:
            return dispatch.is_on(self._database, job_id, self._device_key)
        except (Unavailable, StoreFull):
            return True

    def _dispatched(self) -> Job | None:
        try:
            return dispatch.next_on(self._database, self._device_key)
        except (Unavailable, StoreFull):
            return None


def clear_stack(error: BaseException) -> None:
    """Drop what the variables hold on the stacks of the error and of those that led to it. Their lines stay."""
    seen: set[int] = set()
    chain = [error]
    while chain:
        one = chain.pop()
        if id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            chain += [cause for cause in (one.__cause__, one.__context__) if cause is not None]


def _has_ended_job(run: "Future[bool | None]") -> bool:
    error = run.exception()
    return isinstance(error, JobFailed | Cancelled) if error is not None else run.result() is True
