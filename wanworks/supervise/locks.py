"""Locks against duplicates: one `up` per home, one of each process per home, one worker per device.

They are flocks, so the kernel releases them when their process ends, however it ends.
"""

import errno
import fcntl
import hashlib
import os
from pathlib import Path

from wanworks.errors import AlreadyRunning

# Not in TMPDIR, which differs between users, because a device is locked for the whole host.
_HOST_FOLDER = Path("/tmp")


def hold_home(home: Path, name: str, *, across_exec: bool = False) -> int:
    """Lock `name` (``up``, or a process's name) on this home; held while the returned descriptor is open.

    Raises AlreadyRunning.
    """
    folder = home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _hold(folder / f"{name}.lock", f"{name!r} is already running on the home {home}")
    os.set_inheritable(descriptor, across_exec)
    return descriptor


def hold_device(key: str, what: str) -> int:
    """Lock one device for the host. `key` is a GPU's UUID, or another unique name of the device.

    Raises AlreadyRunning.
    """
    name = hashlib.sha256(key.encode()).hexdigest()[:24]
    return _hold(_HOST_FOLDER / f"wanworks-device-{name}.lock", f"{what} already has a worker on this host")


def _hold(path: Path, refusal: str) -> int:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise AlreadyRunning(refusal) from None
        raise
    return descriptor


def _open(path: Path) -> int:
    """Open read-only if the file exists: another user's file in a sticky folder can be locked, but not written."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o644)
