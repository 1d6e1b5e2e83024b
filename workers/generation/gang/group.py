"""The leader's side of a gang: starts a process for each other device, watches them, and ends them.

The members belong to one attempt. They die with the process that leads it, and if one of them dies, the attempt ends:
computing together cannot go on without it.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.errors import (
    AttemptStopped,
    BadInput,
    BadOutput,
    DeviceFailed,
    FaultKind,
    JobFailed,
    ModelUnavailable,
    OutOfMemory,
)
from workers.generation.context import GenerationContext
from workers.generation.seats import Member, Seat, arrived

log = logging.getLogger("wanworks.gang")

_LOOK_SECONDS = 0.05
# So long the leader may take to notice that a member has died. Then its own process is killed: on a GPU it may wait
# for the dead one forever.
_NOTICE_SECONDS = 15.0
_END_SECONDS = 5.0
# The failures of a member that are the job's own. Any other counts as a crash.
_CAUSES: Mapping[str, type[JobFailed]] = {
    cause.code: cause for cause in (OutOfMemory, ModelUnavailable, BadInput, BadOutput)
}


class Group:
    """The processes of the other devices: ``with Group(...) as group``. None of them survives the block."""

    def __init__(self, context: GenerationContext, members: Sequence[Member]) -> None:
        self._context = context
        self._members = members
        self._folder = tempfile.TemporaryDirectory(prefix="wanworks-gang-")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._failures: list[tuple[str, str]] = []  # code and message
        self._arrived = 0
        self._closing = threading.Event()
        self.seat = Seat(0, len(members) + 1, Path(self._folder.name) / "meeting", self._wait_for_all)

    def __enter__(self) -> Self:
        try:
            for rank, member in enumerate(self._members, start=1):
                self._start(rank, member)
        except BaseException:
            self._end()
            raise
        threading.Thread(target=self._watch, name="gang", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._wait(_END_SECONDS)
        broken = self._failure() if isinstance(error, Exception) and not isinstance(error, JobFailed) else None
        self._end()
        if broken is not None and error is not None and not isinstance(error, AttemptStopped):
            raise broken from error

    def _start(self, rank: int, member: Member) -> None:
        context = self._context
        told = {
            "rank": rank,
            "size": self.seat.size,
            "meeting": str(self.seat.meeting),
            "parent": os.getpid(),
            "home": str(context.settings.home),
            "memory_profile": context.settings.memory_profile,
            "job_id": context.job_id,
            "attempt": context.attempt,
            "params": context.params.model_dump(mode="json"),
            "entry": context.entry.model_dump(mode="json"),
            "snapshot": str(context.snapshot),
            "image": str(context.image) if context.image is not None else None,
            "last_image": str(context.last_image) if context.last_image is not None else None,
            "lora_snapshot": str(context.lora_snapshot) if context.lora_snapshot is not None else None,
            "lora_paths": {sha256: str(path) for sha256, path in context.lora_paths.items()},
        }
        env = {**os.environ, "WANWORKS_DEVICE": member.label}
        if member.visible or "CUDA_VISIBLE_DEVICES" in env:
            env["CUDA_VISIBLE_DEVICES"] = member.visible
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.processes.gang_member"],
            env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._processes.append(process)
        assert process.stdin is not None
        # The pipe stays open: its end tells the member that the leader is gone.
        process.stdin.write(json.dumps(told).encode() + b"\n")
        process.stdin.flush()
        reader = threading.Thread(target=self._read, args=(process,), name=f"gang-{rank}", daemon=True)
        self._readers.append(reader)
        reader.start()
        log.info("job %s: process %d runs on %s, %d of %d", context.job_id, process.pid, member.key, rank + 1,
                 self.seat.size)  # fmt: skip

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == arrived():
                self._arrived += 1
            elif word == "failed":
                code, _, message = rest.partition(" ")
                self._failures.append((code, message))

    def _wait_for_all(self) -> None:
        """Return once every member has loaded the model. Raises what the check raises, and why a member has ended."""
        while self._arrived < len(self._members):
            self._context.check()
            if any(process.poll() is not None for process in self._processes):
                raise self._failure() or DeviceFailed(FaultKind.PROCESS_DEATH, "a process of the gang has ended")
            time.sleep(_LOOK_SECONDS)

    def _watch(self) -> None:
        """Kill this process if a member has died and that is not noticed: the main process then recovers the job."""
        dead_at: float | None = None
        while not self._closing.wait(_LOOK_SECONDS):
            if any(process.poll() not in (None, 0) for process in self._processes):
                dead_at = dead_at or time.monotonic()
                if time.monotonic() - dead_at > _NOTICE_SECONDS:
                    log.error("job %s: a process of the gang has died; this one ends too", self._context.job_id)
                    os.kill(os.getpid(), signal.SIGKILL)

    def _failure(self) -> Exception | None:
        """Return why a member has ended before its time; None if none has."""
        self._wait(1.0, all_of_them=False)
        ended = [process for process in self._processes if process.poll() not in (None, 0)]
        if not ended:
            return None
        for process, reader in zip(self._processes, self._readers, strict=True):
            if process in ended:
                reader.join(1.0)
        for code, message in self._failures:
            if code in _CAUSES:
                return _CAUSES[code](message)
        what = "; ".join(message for _, message in self._failures) or f"it ended with status {ended[0].poll()}"
        return DeviceFailed(FaultKind.PROCESS_DEATH, f"a process of the gang ended: {what}")

    def _wait(self, seconds: float, *, all_of_them: bool = True) -> None:
        deadline = time.monotonic() + seconds
        some = all if all_of_them else any
        while time.monotonic() < deadline and not some(one.poll() is not None for one in self._processes):
            time.sleep(_LOOK_SECONDS)

    def _end(self) -> None:
        self._closing.set()
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        log.debug("the pipe of a member was gone")
        self._folder.cleanup()
