"""Send the files of many jobs as a zip archive, piece by piece, as fast as the client reads it."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from zipstream import ZipStream

from api.context import Context
from api.services import archives
from api.services.archives import Archives
from shared.database.tables import Batch
from shared.errors import WanworksError
from shared.jobs import batches
from shared.jobs.batches import Member

log = logging.getLogger("wanworks.archives")

STALLED_SECONDS = 60.0  # a client that reads nothing for this long loses its slot


async def respond(context: Context, request: Request, batch: Batch, summary: Callable[[], dict[str, Any]]) -> Response:
    """Return all files of a batch. Raises ArchivesBusy if enough are being sent, and StoreUnavailable."""

    def find() -> tuple[dict[str, Any], Sequence[Member]]:
        members = batches.members(context.database, batch.id, whole=True)
        return {**summary(), "counts": summary()["counts"].model_dump()}, members

    return await send(context, request, f"batch-{batch.id}.zip", find)


async def send(
    context: Context, request: Request, name: str, find: Callable[[], tuple[dict[str, Any], Sequence[Member]]]
) -> Response:
    """Return the files of the jobs that `find` returns, after what the manifest says of them. Raises as `respond`."""

    def build() -> ZipStream:
        about, members = find()
        files = archives.files_of(members)
        return archives.archive(context.storage.store(), files, archives.manifest(about, members))

    slots = context.archives
    extra = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
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
            with anyio.move_on_after(STALLED_SECONDS) as limit:
                await send(message)
            if limit.cancelled_caught:
                raise _EndsEarly(f"its client has read nothing for {STALLED_SECONDS:g} s")

        try:
            await super().__call__(scope, receive, send_in_time)
        except (_EndsEarly, ExceptionGroup) as error:
            if isinstance(error, ExceptionGroup) and error.split(_EndsEarly)[1] is not None:
                raise
            reason = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            log.warning("an archive ends early: %s", reason)
        except ClientDisconnect:
            log.info("an archive ends early: its client has left")
        finally:
            self._slots.release()

    async def _pieces(self, made: ZipStream) -> AsyncIterator[bytes]:
        """Yield the archive. A thread is taken for one piece only, so a slow client holds none."""
        found = archives.pieces(made)
        try:
            while piece := await anyio.to_thread.run_sync(next, found, b"", limiter=self._slots.threads):
                yield piece
        except (WanworksError, OSError, RuntimeError) as error:
            raise _EndsEarly(str(error)) from error


class _EndsEarly(Exception):
    """The archive cannot be sent to its end. The server closes the connection of a response that is too short."""
