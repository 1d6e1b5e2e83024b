"""The calls for the gallery: finished videos, favourites and collections."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack, cast

from wanworks.client.batches import archive
from wanworks.client.calls import given, result_of, segment
from wanworks.client.shapes import Collection, GalleryFilter, GalleryVideo, GalleryWindow
from wanworks.client.steps import Call, Emit, Emitting, Send

_GALLERY, _COLLECTIONS = "/api/v1/gallery", "/api/v1/collections"
_PAGE = 200


def gallery_window(
    *,
    offset: int | None = None,
    limit: int = 60,
    after: str | None = None,
    as_of: str | None = None,
    **which: Unpack[GalleryFilter],
) -> Call[GalleryWindow]:
    """Return finished videos, newest first: at most `limit` (1 to 200) from `offset` on, or after a cursor.

    `as_of` of a window keeps videos that finish meanwhile out of the next ones.
    """
    query = given({**which, "offset": offset, "limit": limit, "after": after, "as_of": as_of})
    if "favourite" in query:
        query["favourite"] = "true" if query["favourite"] else "false"
    return cast(GalleryWindow, (yield from result_of(Send("GET", _GALLERY, query=query))))


def gallery(**which: Unpack[GalleryFilter]) -> Emitting[GalleryVideo]:
    """Yield all matching videos, newest first; windows are requested as needed."""
    after: str | None = None
    while True:
        window = yield from gallery_window(limit=_PAGE, after=after, **which)
        for each in window["data"]:
            yield Emit(each)
        after = window["next"]
        if not window["has_more"]:
            return


def favourite(job_id: str, marked: bool = True) -> Call[None]:
    """Make a finished video a favourite, or none. Raises NotThere; StateForbids if the job has no video."""
    yield from result_of(Send("PUT" if marked else "DELETE", f"/api/v1/jobs/{segment(job_id)}/favourite"))


def collections() -> Call[list[Collection]]:
    """Return your collections by name."""
    return cast(list[Collection], (yield from result_of(Send("GET", _COLLECTIONS)))["data"])


def collection(collection_id: str) -> Call[Collection]:
    """Return one collection. Raises NotThere."""
    return cast(Collection, (yield from result_of(Send("GET", f"{_COLLECTIONS}/{segment(collection_id)}"))))


def create_collection(name: str) -> Call[Collection]:
    """Create an empty collection. Raises StateForbids if there is one of that name."""
    request = Send("POST", _COLLECTIONS, json={"name": name}, repeatable=False)
    return cast(Collection, (yield from result_of(request)))


def change_collection(
    collection_id: str, *, name: str | None = None, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> Call[Collection]:
    """Rename a collection, add jobs' videos and take some out: all of it, or nothing."""
    body: dict[str, Any] = {**given({"name": name}), "add": list(add), "remove": list(remove)}
    request = Send("PATCH", f"{_COLLECTIONS}/{segment(collection_id)}", json=body)
    return cast(Collection, (yield from result_of(request)))


def delete_collection(collection_id: str) -> Call[None]:
    """Delete a collection, but not its videos. Raises NotThere."""
    yield from result_of(Send("DELETE", f"{_COLLECTIONS}/{segment(collection_id)}"))


def download_videos(job_ids: Sequence[str], to: Path) -> Call[int]:
    """Download all files of at most 200 jobs as a zip archive. Return its size in bytes.

    Written beside it as NAME.partial, and renamed once it is complete. Raises TransferBroken, NotThere, OSError.
    """
    ids = ",".join(segment(job_id) for job_id in job_ids)
    return (yield from archive(f"{_GALLERY}/archive.zip?jobs={ids}", to, "the archive"))
