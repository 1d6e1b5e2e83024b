"""One child process: it starts in its own session, and ends when its parent ends, however that happens.

This module must not depend on restarts or on what the child does. Linux only: it uses PDEATHSIG and /proc.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_LAUNCHER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("exec_child.py")))

LOG_LIMIT_BYTES = 10 * 1000 * 1000  # a longer log is renamed to NAME.log.1 when its process starts


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path | None = None,
    stdout: int | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `argv` in its own session, with its output appended to `log`.

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
    """Return the pids of all live processes in a session, given by the pid of the child that created it."""
    members = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields and int(fields[3]) == session and fields[0] not in "ZX":
            members.append(int(entry.name))
    return members


def kill_session(session: int) -> None:
    """Send SIGKILL to all live processes in a session that we created."""
    for pid in session_members(session):
        with suppress(ProcessLookupError):  # it ended by itself in between
            os.kill(pid, signal.SIGKILL)


def started_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; with the pid it identifies a process uniquely.

    None where there is no such process.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third (the state) on; the second, the name, may contain spaces."""
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
    if shutil.which(argv[0], path=env.get("PATH")) is None:  # of the launcher's own failures only a code is seen
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    return subprocess.Popen(
        [*_LAUNCHER, str(os.getpid()), str(int(death_signal)), *argv],
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
