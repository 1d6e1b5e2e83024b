"""The layout of a store, the same in a directory and a bucket, and the check of its marker. Pure.

    marker                                 the id of the installation that the store belongs to
    inputs/<job>/<name>                    sent by the client
    artifacts/<job>/<attempt>/<name>       written by an attempt; only the winning attempt's are served
    artifacts/<job>/checkpoint/<attempt>   the latest checkpoint of an attempt, until the job has ended
    loras/<sha256>.safetensors             a file of the library of LoRAs

A directory can thus be copied to a bucket and back. Names come from the code or are checked here.
"""

import re
from dataclasses import dataclass

from shared.errors import NotFound, StoreMismatch

MARKER = "marker"
INPUTS = "inputs"
ARTIFACTS = "artifacts"
CHECKPOINT = "checkpoint"
LORAS = "loras"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class OrphanedFiles:
    """A job with files that were not changed for a while, and the attempts that have some."""

    job_id: str
    attempts: tuple[int, ...]
    checkpoint: bool = False  # whether there is one of any attempt


def every(attempt: int) -> bool:
    """Select every attempt."""
    return True


def artifact_name(name: str) -> str:
    """Return the name if it is valid. Raises NotFound."""
    if _NAME.fullmatch(name) is None:
        raise NotFound("artifact", name)
    return name


def lora_name(sha256: str) -> str:
    """Return the name of a LoRA's file. Raises NotFound if it is no SHA-256."""
    if _SHA256.fullmatch(sha256) is None:
        raise NotFound("LoRA file", sha256)
    return f"{sha256}.safetensors"


def input_path(reference: str) -> str:
    """Return where an input is in the store. A reference that begins with `artifacts/` is to a file of another job."""
    return reference if reference.startswith(f"{ARTIFACTS}/") else f"{INPUTS}/{reference}"


def must_mark(found: str | None, installation: str, place: str, *, create: bool) -> bool:
    """Return whether the marker must be written. `found`: the existing marker's content; None if there is none.

    A missing marker is accepted only with `create`, so that a node with the wrong mount or bucket refuses to start.
    Raises StoreMismatch.
    """
    if found is None:
        if not create:
            raise StoreMismatch(
                f"{place} has no store marker, so it is not the store of this installation: check the mount or bucket"
            )
        return True
    if found.strip() != installation:
        raise StoreMismatch(f"{place} belongs to another installation: its marker differs from the one in the database")
    return False
