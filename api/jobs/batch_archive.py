"""Send all files of a batch as a zip archive, piece by piece, as fast as the client reads it."""

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from zipstream import ZipStream

from api.context import Context
from api.services import archives
from api.services.archives import Archives
from shared.database.tables import Batch
from shared.errors import WanworksError
from shared.jobs import batches

log = logging.getLogger("wanworks.archives")

STALLED_SECONDS = 60.0  # a client that reads nothing for this long loses its slot


async def respond(context: Context, request: Request, batch: Batch, summary: Callable[[], dict[str, Any]]) -> Response:
    """Return the archive. Raises ArchivesBusy if enough are being sent, and StoreUnavailable."""

    def build() -> ZipStream:
        members = batches.members(context.database, batch.id, whole=True)
        about = {**summary(), "counts": summary()["counts"].model_dump()}
        files = archives.files_of(members)
        return archives.archive(context.storage.store(), files, archives.manifest(about, members))

    slots = context.archives
    extra = {"Content-Disposition": f'attachment; filename="batch-{batch.id}.zip"', "Cache-Control": "no-store"}
    slots.take()
    try:
        made = await anyio.to_thread.run_sync(build, limiter=context.reads)
    except BaseException:
        slots.release()
        raise
    extra["Content-Length"] = str(len(made))
    if request.method == "HEAD":
        slots.release()
        return Response(headers=extra, media_type="application/zip")
    return _Archive(slots, made, extra)


class _Archive(StreamingResponse):
    """The response. Its length is announced, so the client notices if it ends early."""

    def __init__(self, slots: Archives, made: ZipStream, extra: dict[str, str]) -> None:
        super().__init__(self._pieces(made), 200, extra, "application/zip")
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Any) -> None:
            with anyio.fail_after(STALLED_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            log.info("an archive was not read for %.0f s, so its connection is closed", STALLED_SECONDS)
        except _BrokenOff as error:
            log.warning("an archive ends early: %s", error.__cause__)
        finally:
            self._slots.release()

    async def _pieces(self, made: ZipStream) -> AsyncIterator[bytes]:
        """Yield the archive. A thread is taken for one piece only, so a slow client holds none."""
        found = archives.pieces(made)
        try:
            while piece := await anyio.to_thread.run_sync(next, found, b"", limiter=self._slots.threads):
                yield piece
        except (WanworksError, OSError, RuntimeError) as error:
            raise _BrokenOff() from error


class _BrokenOff(Exception):
    """A file could not be read completely."""
