"""Receive an upload into a file of this host, piece by piece, and add it to the library."""

import hashlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request

from shared.errors import MalformedRequest, StoreFull, TooLarge
from shared.storage.disk import full_disk_as_store_full

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Received:
    """A complete upload."""

    path: Path
    bytes: int
    sha256: str


@asynccontextmanager
async def received(request: Request, folder: Path, limit_bytes: int, spare_bytes: int) -> AsyncIterator[Received]:
    """Write the body to a file, which exists inside the block.

    Raises TooLarge, StoreFull if fewer than `spare_bytes` would stay free, and MalformedRequest for a body that breaks
    off.
    """
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isascii() and declared.isdigit() else 0
    too_large = TooLarge(f"The file is larger than {limit_bytes // 10**6} MB, the maximum (WANWORKS_LORA_MAX_MB)")
    if size > limit_bytes:
        raise too_large
    path = folder / f"{uuid.uuid4()}.upload"
    digest, total = hashlib.sha256(), 0
    file: Any = await anyio.to_thread.run_sync(_opened, path, size + spare_bytes)
    try:
        pending = bytearray()
        async for piece in request.stream():
            total += len(piece)
            if total > limit_bytes:
                raise too_large
            pending += piece
            if len(pending) >= _PIECE_BYTES:
                await anyio.to_thread.run_sync(partial(_write, file, bytes(pending), digest, folder, spare_bytes))
                pending.clear()
        await anyio.to_thread.run_sync(partial(_write, file, bytes(pending), digest, folder, spare_bytes))
        await anyio.to_thread.run_sync(file.close)
        if size and total != size:
            raise MalformedRequest(f"The body ended after {total} of {size} bytes")
        yield Received(path, total, digest.hexdigest())
    except ClientDisconnect:
        raise MalformedRequest("The connection ended before the whole body was received") from None
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_remove, file, path)


def _opened(path: Path, needed_bytes: int) -> Any:
    with full_disk_as_store_full():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < needed_bytes:
            raise StoreFull()
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _write(file: Any, content: bytes, digest: Any, folder: Path, spare_bytes: int) -> None:
    with full_disk_as_store_full():
        file.write(content)
        digest.update(content)
        if shutil.disk_usage(folder).free < spare_bytes:
            raise StoreFull()


def _remove(file: Any, path: Path) -> None:
    file.close()
    path.unlink(missing_ok=True)
