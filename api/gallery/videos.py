"""The gallery routes: windows of the finished videos, what they can be filtered by, and an archive of chosen ones."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.access.caller import Caller, caller_of
from api.context import Context
from api.http.responses import json_response
from api.jobs import views
from api.jobs.many import batch_archive
from api.operation import Answer, Operation
from api.schemas.jobs import gallery as schemas
from api.schemas.jobs.gallery import ArchiveQuery, GalleryQuery
from shared import clock
from shared.errors import NotFound
from shared.jobs import records
from shared.jobs.batches import Member
from shared.jobs.ending.videos import folded
from shared.jobs.gallery import favourites, reading
from shared.jobs.gallery.reading import Filter, Shown
from shared.states import JobState, Scope


def list_gallery(context: Context, request: Request, query: GalleryQuery) -> Response:
    caller = caller_of(request)
    which = Filter(
        holder=holder_of(caller),
        only=caller.only,
        words=tuple(folded(query.q or "").split()),
        model_id=query.model_id,
        size=query.size,
        lora=query.lora,
        favourite=query.favourite,
        collection_id=query.collection,
        finished_after=query.finished_after,
        finished_before=query.finished_before,
    )
    after, as_of = (None if value is None else int(value) for value in (query.after, query.as_of))
    found = reading.window(context.database, which, offset=query.offset, limit=query.limit, after=after, as_of=as_of)
    public_path = context.settings.public_path
    return json_response(
        schemas.GalleryWindow(
            data=[_video(one, public_path) for one in found.videos],
            total=found.total,
            is_more=found.is_more,
            has_more=found.has_more,
            next=str(found.last) if found.has_more else None,
            as_of=str(found.as_of),
            looked_through=found.looked_through,
        )
    )


def get_choices(context: Context, request: Request, query: BaseModel) -> Response:
    found = reading.choices(context.database, caller_of(request).only)
    return json_response(schemas.GalleryChoices(sizes=found.sizes, loras=found.loras))


async def get_archive(context: Context, request: Request, query: ArchiveQuery) -> Response:
    caller, job_ids = caller_of(request), list(dict.fromkeys(query.jobs.split(",")))

    def find() -> tuple[dict[str, Any], Sequence[Member]]:
        found = {job.id: job for job in records.several(context.database, job_ids) if caller.sees(job.owner)}
        for job_id in job_ids:
            if job_id not in found:
                raise NotFound("job", job_id)
        jobs = [found[job_id] for job_id in job_ids]
        return {"made_at": clock.iso(clock.now())}, [
            Member(job.id, JobState(job.status), job.attempt, job.result, job.error) for job in jobs
        ]

    return await batch_archive.send(context, request, "videos.zip", find)


def holder_of(caller: Caller) -> str:
    """Return whose favourites and collections the caller uses: those of its key, or the local user's."""
    return caller.key_id or favourites.LOCAL


def _video(shown: Shown, public_path: str) -> schemas.GalleryVideo:
    job = shown.job
    params = views.settled_params(job.params)
    files = views.artifacts(job.id, job.result or {}, public_path)
    return schemas.GalleryVideo(
        id=job.id,
        prompt=params.prompt,
        model_id=params.model_id,
        size=params.resolution,
        frames=params.frames,
        fps=params.fps,
        steps=params.steps,
        seed=params.seed,
        loras=params.loras,
        mock=job.mock,
        created_at=clock.iso(job.created_at) or "",
        finished_at=clock.iso(job.finished_at) or "",
        favourite=shown.favourite,
        collections=list(shown.collections),
        video=next((file for file in files if file.kind == "video"), None),
        thumbnail=next((file for file in files if file.kind == "thumbnail"), None),
    )


OPERATIONS = (
    Operation(
        "GET", "/api/v1/gallery", list_gallery, "listGallery", "List finished videos, newest first",
        answers=(Answer(200, "A window of the list.", schemas.GalleryWindow),), problems=(404, 503),
        query=GalleryQuery, scope=Scope.READ,
        description=f"By `offset`, which reaches the newest {reading.MOST:,}, or by the cursor `after`, which reaches "
        f"all. The search ignores case and looks through the newest {reading.LOOKED_THROUGH:,} of the videos that the "
        "other filters leave; `looked_through` says when that were not all.",
    ),
    Operation(
        "GET", "/api/v1/gallery/choices", get_choices, "getGalleryChoices", "The sizes and LoRAs of finished videos",
        answers=(Answer(200, "What there is to choose from.", schemas.GalleryChoices),), problems=(503,),
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/gallery/archive.zip", get_archive, "getGalleryArchive",
        "Get all files of chosen jobs as one archive",
        answers=(Answer(200, "A zip archive without compression.", media_type="application/zip"),),
        problems=(404, 503), query=ArchiveQuery, scope=Scope.READ,
        description="It has a folder for each job that has succeeded, named by its id, and `manifest.json`. If a file "
        "is deleted while the archive is sent, the connection ends early.",
    ),
)  # fmt: skip
