"""Download an artifact to a file, completely and with a verified checksum, or not at all. Partial files are kept."""

import hashlib
import random
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from wanworks.client.refusals import refusal
from wanworks.client.retries import pause_seconds
from wanworks.client.shapes import ArtifactLink
from wanworks.client.steps import Answer, Blocking, Call, Open, Pause, Read, Step
from wanworks.errors import TransferBroken

_QUIET_SECONDS = 60.0
_FRUITLESS = 5  # successive tries without a new byte
_WRONG = 2  # complete downloads with a wrong checksum


def download(artifact: ArtifactLink, to: Path) -> Call[int]:
    """Download an artifact of a job to that file. Return its size in bytes.

    Written beside it as NAME.partial and renamed once its checksum is right; a partial that is there is gone on with,
    and a file that is right already stays. Raises TransferBroken, ApiRefused, OSError.
    """
    if (yield Blocking(partial(is_whole, to, artifact["bytes"], artifact["sha256"]))):
        return artifact["bytes"]
    part = to.with_name(f"{to.name}.partial")
    for _ in range(_WRONG):
        yield from _transferred(artifact, part)
        if (yield Blocking(partial(is_whole, part, artifact["bytes"], artifact["sha256"]))):
            yield Blocking(partial(part.replace, to))
            return artifact["bytes"]
        yield Blocking(part.unlink)
    raise TransferBroken(f"{artifact['name']} arrived twice with a wrong checksum")


def is_whole(path: Path, size: int, sha256: str) -> bool:
    """Return whether the file exists with that size, in bytes, and that checksum."""
    if _size(path) != size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _transferred(artifact: ArtifactLink, part: Path) -> Generator[Step, Any, None]:
    """Complete the partial file."""
    fruitless = 0
    while (have := (yield Blocking(partial(_size, part)))) != artifact["bytes"]:
        if have is None or have > artifact["bytes"]:
            have = 0
        yield from _some(artifact, part, have)
        if ((yield Blocking(partial(_size, part))) or 0) > have:
            fruitless = 0
            continue
        fruitless += 1
        if fruitless == _FRUITLESS:
            raise TransferBroken(f"{artifact['name']} broke off at byte {have} {fruitless} times in succession")
        yield Pause(pause_seconds(fruitless, None, random.random()))


def _some(artifact: ArtifactLink, part: Path, have: int) -> Generator[Step, Any, None]:
    """Append received bytes to the partial file until the end, or until the connection breaks."""
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    answer: Answer = yield Open(artifact["url"], headers, _QUIET_SECONDS)
    if not answer.good:
        raise refusal(answer)
    goes_on = answer.status == httpx.codes.PARTIAL_CONTENT
    file = yield Blocking(partial(part.open, "ab" if goes_on and have else "wb"))
    try:
        while chunk := (yield Read(answer.stream)):
            yield Blocking(partial(file.write, chunk))
    except httpx.HTTPError:
        pass  # received bytes are kept
    finally:
        file.close()


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None
