"""Requests and responses of the gallery, favourites and collections."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from api.http.query import JOB_ID, digits
from api.schemas.fields import Name, RequestModel, ResponseModel, Time
from api.schemas.jobs.job_queries import JobId, flag
from api.schemas.jobs.results import Artifact
from shared.jobs.gallery.reading import LOOKED_THROUGH, MOST
from wanworks.moments import Moment
from wanworks.requests import LORA_NAME, NOT_BLANK, PLAIN, Lora

MOST_WORDS = 10
MOST_AT_ONCE = 1000
MOST_ARCHIVED = 200  # their ids fit into the longest address that common proxies let through
_PLACE = "[0-9]{1,19}"
_SIZE = "[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"


def _place(value: str | None) -> str | None:
    if value is not None and (not re.fullmatch(_PLACE, value, re.ASCII) or int(value) >= 1 << 63):
        raise ValueError("is not a cursor; give the `next` or `as_of` of an earlier response")
    return value


def _words(value: str | None) -> str | None:
    if value is not None and len(value.split()) > MOST_WORDS:
        raise ValueError(f"has {len(value.split())} words; give at most {MOST_WORDS}")
    return value


def _size(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(_SIZE, value, re.ASCII):
        raise ValueError("is not a size; give width and height, such as 1280x720")
    return value


def _lora(value: str | None) -> str | None:
    if value is not None and not LORA_NAME.fullmatch(value):
        raise ValueError("is not the name of a LoRA; give one as in the job's `loras`")
    return value


def _collection(value: str | None) -> str | None:
    if value is not None and not JOB_ID.fullmatch(value):
        raise ValueError("is not the id of a collection; give one that GET /api/v1/collections lists")
    return value


def _job_list(value: str) -> str:
    given = value.split(",")
    wrong = next((one for one in given if not JOB_ID.fullmatch(one)), None)
    if wrong is not None:
        raise ValueError(f"{wrong[:50]!r} is not the id of a job; give ids separated by commas")
    if len(given) > MOST_ARCHIVED:
        raise ValueError(f"has {len(given)} ids; give at most {MOST_ARCHIVED}")
    return value


_Place = Annotated[str | None, AfterValidator(_place)]
_Shown = {"json_schema_extra": {"pattern": f"^{_PLACE}$"}}
JobIds = Annotated[list[JobId], Field(max_length=MOST_AT_ONCE)]
CollectionName = Annotated[
    str, Field(min_length=1, max_length=100, description="Unique among those of a key."), PLAIN, NOT_BLANK
]


class GalleryQuery(RequestModel):
    """Filters and window of the gallery."""

    q: Annotated[
        Annotated[str, Field(max_length=200), PLAIN] | None,
        AfterValidator(_words),
        Field(description=f"Only videos whose prompt has all of these words or parts of words, at most {MOST_WORDS}."),
    ] = None
    model_id: Annotated[Name | None, Field(description="Only videos of this model.")] = None
    size: Annotated[
        str | None,
        AfterValidator(_size),
        Field(description="Only videos of this width and height.", json_schema_extra={"pattern": f"^{_SIZE}$"}),
    ] = None
    lora: Annotated[
        Annotated[str, Field(max_length=128)] | None,
        AfterValidator(_lora),
        Field(
            description="Only videos made with this LoRA.",
            json_schema_extra={"pattern": f"^{LORA_NAME.pattern}$"},
        ),
    ] = None
    favourite: Annotated[bool, BeforeValidator(flag), Field(description="`true`: only your favourites.")] = False
    collection: Annotated[
        str | None,
        AfterValidator(_collection),
        Field(
            description="Only videos in this collection of yours.",
            json_schema_extra={"pattern": f"^{JOB_ID.pattern}$"},
        ),
    ] = None
    finished_after: Annotated[Moment | None, Field(description="Only videos finished at this time or later.")] = None
    finished_before: Annotated[Moment | None, Field(description="Only videos finished before this time.")] = None
    offset: Annotated[
        int,
        Field(ge=0, le=MOST, description="How many of the newest to leave out."),
        BeforeValidator(digits),
    ] = 0
    limit: Annotated[int, Field(ge=1, le=200, description="Maximum number of videos."), BeforeValidator(digits)] = 60
    after: Annotated[_Place, Field(description="The `next` of the previous page.", **_Shown)] = None
    as_of: Annotated[
        _Place, Field(description="The `as_of` of an earlier response: leave out videos finished later.", **_Shown)
    ] = None

    @model_validator(mode="after")
    def _is_one_place(self) -> "GalleryQuery":
        if self.after is not None and self.offset:
            raise ValueError("has both `offset` and `after`; give one of them")
        return self


class GalleryVideo(ResponseModel):
    """A finished video."""

    id: Annotated[str, Field(description="The id of its job.")]
    prompt: str
    model_id: str
    size: str
    frames: int
    fps: int
    steps: int
    seed: int
    loras: list[Lora]
    mock: Annotated[bool, Field(description="Whether it is labelled placeholder output.")]
    created_at: Time
    finished_at: Time
    favourite: Annotated[bool, Field(description="Whether it is a favourite of yours.")]
    collections: Annotated[list[str], Field(description="The ids of your collections that it is in.")]
    video: Annotated[Artifact | None, Field(description="Null: the job kept no video file.")]
    thumbnail: Artifact | None


class GalleryWindow(ResponseModel):
    """A window of the gallery, newest first."""

    data: list[GalleryVideo]
    total: Annotated[int, Field(description=f"How many videos match; at most {MOST:,} are counted.")]
    is_more: Annotated[bool, Field(description="Whether more match than are counted. `after` reaches them.")]
    has_more: Annotated[bool, Field(description="Whether more follow this window.")]
    next: Annotated[str | None, Field(description="Pass it as `after` for what follows.")]
    as_of: Annotated[
        str,
        Field(description="Pass it with the next windows, so that videos finished meanwhile do not move the others."),
    ]
    looked_through: Annotated[
        int | None,
        Field(
            description="Null: all. Otherwise only so many of the newest were looked through, because each was "
            f"checked: at most {LOOKED_THROUGH:,}."
        ),
    ]


class GalleryChoices(ResponseModel):
    """What the videos that you see can be filtered by."""

    sizes: list[str]
    loras: list[str]


class ArchiveQuery(RequestModel):
    """Which videos an archive has."""

    jobs: Annotated[
        Annotated[str, Field(max_length=37 * MOST_ARCHIVED)],
        AfterValidator(_job_list),
        Field(
            description=f"The ids of at most {MOST_ARCHIVED} jobs, separated by commas.",
            json_schema_extra={"pattern": f"^{JOB_ID.pattern}(,{JOB_ID.pattern})*$"},
        ),
    ]


class CollectionRequest(RequestModel):
    """A new collection."""

    name: CollectionName


class CollectionChange(RequestModel):
    """What to change of a collection. Nothing else of it changes."""

    name: CollectionName | None = None
    add: Annotated[JobIds, Field(description="Videos to add. Those that are in it stay.")] = []
    remove: Annotated[JobIds, Field(description="Videos to take out. They are not deleted.")] = []


class Collection(ResponseModel):
    """A collection of videos."""

    id: str
    name: str
    videos: int
    created_at: Time


class Collections(ResponseModel):
    """Your collections, by name."""

    data: list[Collection]
