"""A member of a gang: `python -m workers.processes.gang_member`, started by the process that leads it.

It reads what to compute from its standard input, loads the model on its own device, computes its part of each step,
and ends. It ends with its leader in any case: when the pipe closes, and by the kernel's signal.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from shared.catalogue.entries import CatalogueEntry
from shared.catalogue.job_types import GenerationParams
from shared.errors import AttemptStopped, JobFailed, OutOfMemory
from shared.settings import load
from shared.telemetry import logs
from workers.generation import run
from workers.generation.context import GenerationContext
from workers.generation.seats import Seat, StoppedByLeader, arrived, failed

_PR_SET_PDEATHSIG = 1


def main() -> None:
    told: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != told["parent"]:
        os._exit(1)
    threading.Thread(target=_end_with_leader, args=(sys.stdin.buffer,), daemon=True).start()
    # What libraries print must not be taken for a message to the leader.
    to_leader = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings = load(home=Path(told["home"]), memory_profile=told["memory_profile"])
    logs.set_up(settings, f"gang-{told['rank']}", device=os.environ.get("WANWORKS_DEVICE"))
    with logs.bound(job_id=told["job_id"], attempt=told["attempt"]):
        status = _compute(told, to_leader, settings)
    to_leader.flush()
    os._exit(status)  # without the destructors of libraries, which may wait for other processes


def _compute(told: dict[str, Any], to_leader: TextIO, settings: Any) -> int:
    def arrive() -> None:
        print(arrived(), file=to_leader, flush=True)

    context = GenerationContext(
        job_id=told["job_id"],
        attempt=told["attempt"],
        params=GenerationParams.model_validate(told["params"]),
        entry=CatalogueEntry.model_validate(told["entry"]),
        settings=settings,
        mock=False,
        snapshot=Path(told["snapshot"]),
        image=Path(told["image"]) if told["image"] else None,
        last_image=Path(told["last_image"]) if told["last_image"] else None,
        output_dir=None,
        report=lambda *_: None,
        check=lambda: None,
        lora_snapshot=Path(told["lora_snapshot"]) if told["lora_snapshot"] else None,
        lora_paths={sha256: Path(path) for sha256, path in told["lora_paths"].items()},
        seat=Seat(told["rank"], told["size"], Path(told["meeting"]), arrive),
    )
    try:
        run.decode(context)
    except (StoppedByLeader, AttemptStopped):
        return 0
    except MemoryError:
        print(failed(OutOfMemory.code, "a member ran out of host memory"), file=to_leader)
        return 1
    except JobFailed as error:
        print(failed(error.code, error.message), file=to_leader)
        return 1
    except Exception as error:
        logging.getLogger("wanworks.gang").exception("this process of the gang failed")
        print(failed("internal_error", f"{type(error).__name__}: {str(error)[:200]}"), file=to_leader)
        return 1
    return 0


def _end_with_leader(pipe: BinaryIO) -> None:
    while pipe.read(4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
