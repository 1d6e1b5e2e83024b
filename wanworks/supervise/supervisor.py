"""Start, restart and stop processes. This module must not depend on what they do.

One thread with one loop: signals are blocked and awaited, so that deaths, Ctrl-C and timers are handled alike, and
so that the main thread starts every child (see `wanworks.supervise.child`).
"""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from wanworks.supervise.child import kill_session, session_members, spawn

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_FAILED_STARTS = 2  # in succession, before a program is repaired
_POLL_SECONDS = 0.1  # while waiting for something that sends no signal: a port, a settled start


class ProcessState(StrEnum):
    STARTING = "starting"  # alive for less than a second
    RUNNING = "running"
    BACKOFF = "backoff"  # died; waiting for the next start
    CRASH_LOOP = "crash_loop"  # exited too often: one start per minute, until a process runs for a minute
    STOPPED = "stopped"


@dataclass(frozen=True)
class Program:
    """A process to run, and how to supervise it."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    cwd: Path
    log: Path
    stop_turn: int  # 0 is stopped first; a group stops when the one before it has ended
    start_turn: int = 0  # 0 is started first; a group starts when those before it answer
    prepare: Callable[[], None] | None = None  # run before every start; may raise OSError
    repair: Callable[[], str | None] | None = (
        None  # called after two failed starts in succession; returns a description
    )
    answers: Callable[[], bool] | None = None  # checked before the next group starts
    after_ready: bool = False  # starts last: once the supervisor is ready, or after the policy's `ready_limit`


@dataclass(frozen=True)
class ProcessStatus:
    name: str
    pid: int | None
    state: ProcessState
    restarts: int
    since: datetime  # when it entered this state, UTC


@dataclass(frozen=True)
class Policy:
    """Times in seconds."""

    first_wait: float = 0.2  # before the first restart; doubles with every death within `window`
    longest_wait: float = 10.0
    deaths: int = 5  # this many within `window` are a crash loop
    window: float = 60.0
    loop_wait: float = 60.0  # between tries in a crash loop
    settle: float = 1.0  # a process alive for this long counts as running
    answer_limit: float = 10.0  # the longest wait for a start group before the next one
    ready_limit: float = 10.0  # the longest wait for readiness before the programs with `after_ready` start
    stop_limits: tuple[float, ...] = (4.5, 3.0, 1.5)  # per stop group, then SIGKILL; 9 in total, within the promised 10


@dataclass(frozen=True)
class Verdict:
    wait: float
    crash_loop: bool


def judge(deaths: Sequence[float], now: float, looping: bool, policy: Policy) -> Verdict:
    """Return the wait before the next start. `deaths` are times on the clock of `now`, including the newest."""
    recent = sum(1 for death in deaths if now - death <= policy.window)
    if looping or recent >= policy.deaths:
        return Verdict(policy.loop_wait, True)
    return Verdict(min(policy.first_wait * 2 ** max(recent - 1, 0), policy.longest_wait), False)


class Supervisor:
    """Keeps `programs` alive from `run()` until SIGINT, SIGTERM or SIGHUP. Call it from the main thread.

    `publish` receives every change of a process's state; `log` receives a line about each death.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        publish: Callable[[Sequence[ProcessStatus]], None],
        log: Callable[[str], None],
        policy: Policy = Policy(),
    ) -> None:
        self._policy = policy
        self._publish = publish
        self._log = log
        self._children = [_Child(program, policy, log) for program in programs]
        self._last = [child for child in self._children if child.program.after_ready]
        self._stopping = False
        # as nohup requires; SIGINT applies even if a shell ignores it for background jobs
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._stop_signals = STOP_SIGNALS - {signal.SIGHUP} if ignored else STOP_SIGNALS

    def run(
        self, ready: Callable[[], bool], on_ready: Callable[[], None], on_stop: Callable[[], None] = lambda: None
    ) -> None:
        """Start the programs, call `on_ready` once when `ready` returns true, and return when all have stopped.

        `on_stop` is called when a signal ends it, before the first program is stopped.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *self._stop_signals})
        try:
            self._start_in_turns()
            limit = time.monotonic() + self._policy.ready_limit
            while not self._stopping and not ready():
                if time.monotonic() > limit:
                    self._start_last()
                self._turn(_POLL_SECONDS)
            if not self._stopping:
                on_ready()
                self._start_last()
            while not self._stopping:
                self._turn()
            on_stop()
        finally:
            self._stop_all()
            while signal.sigtimedwait(self._stop_signals, 0) is not None:
                pass  # a second Ctrl-C must not interrupt the caller after the shutdown
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start_in_turns(self) -> None:
        first = [child for child in self._children if not child.program.after_ready]
        for turn in sorted({child.program.start_turn for child in first}):
            group = [child for child in first if child.program.start_turn == turn]
            for child in group:
                child.wanted_at = 0.0
            deadline = time.monotonic() + self._policy.answer_limit
            self._turn(0)
            while not self._stopping and not all(child.answers() for child in group):
                if time.monotonic() > deadline:
                    names = ", ".join(child.program.name for child in group if not child.answers())
                    self._log(f"{names} does not answer after {self._policy.answer_limit:g} s; continuing without it")
                    break
                self._turn(_POLL_SECONDS / 10)

    def _start_last(self) -> None:
        """Start the programs with `after_ready`, unless they have been started."""
        for child in self._last:
            child.wanted_at = 0.0
        self._last = []

    def _turn(self, seconds: float = 60.0) -> None:
        """Do what is due, publish changes, then sleep until a signal, the next event, or for that long."""
        now = time.monotonic()
        changed = [child.step(now) for child in self._children]
        if any(changed):
            self._publish_changes()
        wait = max(0.0, min(seconds, self._until_next_event()))
        received = signal.sigtimedwait({signal.SIGCHLD, *self._stop_signals}, wait)
        if received is not None and received.si_signo in self._stop_signals:
            self._stopping = True

    def _until_next_event(self) -> float:
        now = time.monotonic()
        return min((child.next_event(now) for child in self._children), default=60.0)

    def _stop_all(self) -> None:
        """Stop by groups: SIGTERM, a time limit, then SIGKILL for the process and the rest of its session."""
        for child in self._children:
            child.wanted_at = None
        for turn in sorted({child.program.stop_turn for child in self._children}):
            group = [child for child in self._children if child.program.stop_turn == turn]
            for child in group:
                child.terminate()
            limit = self._policy.stop_limits[min(turn, len(self._policy.stop_limits) - 1)]
            deadline = time.monotonic() + limit
            while any(child.alive() for child in group) and time.monotonic() < deadline:
                signal.sigtimedwait({signal.SIGCHLD}, _POLL_SECONDS / 2)
            for child in group:
                child.bury()
        self._publish_changes()

    def _publish_changes(self) -> None:
        try:
            self._publish([child.status for child in self._children])
        except OSError as error:  # a full disk must not stop the processes that could free space
            self._log(f"the state file cannot be written: {error.strerror}")


class _Child:
    """One program and its present process. `wanted_at` is when to start it; None to not start it."""

    def __init__(self, program: Program, policy: Policy, log: Callable[[str], None]) -> None:
        self.program = program
        self.wanted_at: float | None = None
        self.status = ProcessStatus(program.name, None, ProcessState.STOPPED, 0, datetime.now(UTC))
        self._policy = policy
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._deaths: list[float] = []
        self._looping = False
        self._starts = 0
        self._failed_starts = 0  # in succession; the program exited itself before it counted as running

    def step(self, now: float) -> bool:
        """Update this child. Return whether its status changed."""
        before = self.status
        if self._process is not None and self._process.poll() is not None:
            code = self._process.returncode
            self._died(now, _ending(code))
            self._repair(failed=code > 0 and now - self._started_at < self._policy.settle)
        if self._process is None and self.wanted_at is not None and now >= self.wanted_at:
            self._start(now)
        if self._process is not None:
            self._settle(now)
        return self.status != before

    def next_event(self, now: float) -> float:
        """Return the seconds until this child must be checked again without a signal."""
        if self._process is None:
            return 60.0 if self.wanted_at is None else self.wanted_at - now
        age = now - self._started_at
        if self._looping:
            return self._policy.window - age
        return 60.0 if self.status.state is ProcessState.RUNNING else self._policy.settle - age

    def answers(self) -> bool:
        return self.program.answers is None or (self._process is not None and self.program.answers())

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def bury(self) -> None:
        """Make sure that no process of it is left."""
        if self._process is not None:
            if self._process.poll() is None:
                self._log(f"{self.program.name} did not stop in time and was killed")
                self._process.kill()
            _sweep(self._process.pid)
            self._process.wait()
            self._process = None
        self._become(ProcessState.STOPPED, None)

    def _start(self, now: float) -> None:
        self._started_at = now
        try:
            if self.program.prepare is not None:
                self.program.prepare()
            self._process = spawn(self.program.argv, env=self.program.env, cwd=self.program.cwd, log=self.program.log)
        except OSError as error:
            self._died(now, f"cannot be started: {error}")
            return
        self._starts += 1
        self.wanted_at = None
        self._become(ProcessState.CRASH_LOOP if self._looping else ProcessState.STARTING, self._process.pid)

    def _settle(self, now: float) -> None:
        age = now - self._started_at
        if self._looping and age >= self._policy.window:
            self._looping = False
            self._log(f"{self.program.name} has recovered")
        if not self._looping and age >= self._policy.settle and self.status.state is not ProcessState.RUNNING:
            self._become(ProcessState.RUNNING, self.status.pid)

    def _died(self, now: float, ending: str) -> None:
        if self._process is not None:
            _sweep(self._process.pid)
            self._process = None
        self._deaths = [death for death in self._deaths if now - death <= self._policy.window] + [now]
        verdict = judge(self._deaths, now, self._looping, self._policy)
        self._looping = verdict.crash_loop
        self.wanted_at = now + verdict.wait
        self._become(ProcessState.CRASH_LOOP if verdict.crash_loop else ProcessState.BACKOFF, None)
        loop = " (crash loop)" if verdict.crash_loop else ""
        self._log(f"{self.program.name} {ending}; next start in {verdict.wait:g} s{loop}; see {self.program.log}")

    def _repair(self, *, failed: bool) -> None:
        self._failed_starts = self._failed_starts + 1 if failed else 0
        if self._failed_starts < _FAILED_STARTS or self.program.repair is None:
            return
        self._failed_starts = 0
        try:
            done = self.program.repair()
        except OSError as error:
            done = f"cannot be repaired: {error}"
        if done:
            self._log(f"{self.program.name} {done}")

    def _become(self, state: ProcessState, pid: int | None) -> None:
        same = self.status.state is state
        since = self.status.since if same else datetime.now(UTC)
        self.status = ProcessStatus(self.program.name, pid, state, max(self._starts - 1, 0), since)


def _sweep(session: int) -> None:
    """Kill the remaining processes of a session, and wait (at most 2 s) until they are gone."""
    deadline = time.monotonic() + 2.0
    while session_members(session) and time.monotonic() < deadline:
        kill_session(session)
        time.sleep(0.01)


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with code {returncode}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"was killed by signal {-returncode}"
