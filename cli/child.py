"""One child process: born in its own session, and gone when its parent is gone, however the parent ends.

Knows nothing of restarts or of what the child does. Linux only: the promise rests on PDEATHSIG and /proc.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a child must not run the loader
_prctl = _libc.prctl

LOG_LIMIT_BYTES = 10 * 1000 * 1000  # a longer log is set aside, once, as NAME.log.1 when its process starts


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path | None = None,
    stdout: int | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, its output appended to `log`.

    The kernel sends it `death_signal` when the *thread* that called this ends, so call it from the main thread.
    Raises OSError where it cannot be started.
    """
    if log is None:
        return _popen(argv, env, cwd, stdout, None, death_signal)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
        return _popen(argv, env, cwd, output.fileno(), subprocess.STDOUT, death_signal)


def session_members(session: int) -> list[int]:
    """Process ids of everything alive in that session (the id of the child that founded it)."""
    members = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields and int(fields[3]) == session and fields[0] not in "ZX":
            members.append(int(entry.name))
    return members


def kill_session(session: int) -> None:
    """SIGKILL whatever still lives in a session that we founded."""
    for pid in session_members(session):
        with suppress(ProcessLookupError):  # it ended by itself in between
            os.kill(pid, signal.SIGKILL)


def started_ticks(pid: int) -> int | None:
    """When that process started, in clock ticks since boot: with the pid, a name that is never used twice.

    None where there is no such process.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (the state) on; the second, the name, may hold spaces."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _popen(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    stdout: int | None,
    stderr: int | None,
    death_signal: signal.Signals,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=_bound_to(os.getpid(), death_signal),
    )


def _bound_to(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    def bind() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the supervisor blocks the signals that it waits for
        _prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the line above: nobody will send the signal
            os._exit(1)

    return bind
