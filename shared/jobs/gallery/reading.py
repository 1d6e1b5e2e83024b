"""Windows of the gallery: the newest finished videos under any filter, at any offset, with their number.

What is listed is in order in one index: of the table of videos, of a LoRA's, of a holder's favourites or of a
collection. At most `MOST` videos are counted and reached by offset; older ones are reached by cursor. Where a condition
is checked on each video, as the search is, only the newest `LOOKED_THROUGH` of the index are looked through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func
from sqlmodel import Session, col, select

from shared.database.engine import Database
from shared.database.tables import CollectedVideo, Favourite, Job, Video, VideoLora
from shared.jobs.ending import videos
from shared.jobs.gallery import collections, favourites

MOST = 10_000
LOOKED_THROUGH = 20_000
_CHOICES = 500


@dataclass(frozen=True)
class Filter:
    """Which videos are meant. None: any. `holder`: whose favourites and collections."""

    holder: str
    only: str | None = None  # the owner of their jobs
    words: tuple[str, ...] = ()  # folded; all of them are in the prompt
    model_id: str | None = None
    size: str | None = None
    lora: str | None = None
    favourite: bool = False
    collection_id: str | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None


@dataclass(frozen=True)
class Shown:
    """A video of a window."""

    job: Job
    place: int
    favourite: bool
    collections: Sequence[str]


@dataclass(frozen=True)
class Window:
    """A part of the list. `total` counts up to `MOST` videos; `is_more`: there are more than these."""

    videos: list[Shown]
    total: int
    is_more: bool
    has_more: bool  # after this window
    as_of: int  # the newest place when the list was first asked for
    looked_through: int | None  # None: all
    last: int | None  # the place of its last video, from which a cursor continues


@dataclass(frozen=True)
class Choices:
    """The sizes and LoRAs of the videos that the caller sees."""

    sizes: list[str]
    loras: list[str]


def window(
    database: Database, which: Filter, *, offset: int, limit: int, after: int | None = None, as_of: int | None = None
) -> Window:
    """Return the videos from that offset on, or after that place, newest first.

    `as_of`: leave out later videos. Raises NotFound for a collection that is not the holder's.
    """
    with database.read(snapshot=True) as session:
        if which.collection_id is not None:
            collections.require(session, which.holder, which.collection_id)
        if as_of is None:
            as_of = session.exec(select(func.max(Video.place))).one() or 0
        source, where, checks = _source(which)
        listed = _listed(which, source, where, as_of)
        looked = None
        if checks or which.words:
            rows = _checked(session, which, listed, source, checks)
            number, rows = len(rows), [row for row in rows if after is None or row[1] < after]
            rows = rows[offset : offset + limit + 1]
            looked = LOOKED_THROUGH if _is_beyond(session, listed, LOOKED_THROUGH) else None
        else:
            # Its place alone, so that no row is looked up for the count.
            every = listed.with_only_columns(col(source.place)).order_by(None).limit(MOST + 1).subquery()
            number = int(session.connection().execute(select(func.count()).select_from(every)).scalar_one())
            here = listed if after is None else _listed(which, source, where, min(as_of, after - 1))
            rows = _pairs(session, here.offset(offset).limit(limit + 1))
        shown = _shown(session, which.holder, rows[:limit])
    last = rows[:limit][-1][1] if rows else None
    return Window(shown, min(number, MOST), number > MOST, len(rows) > limit, as_of, looked, last)


def choices(database: Database, only: str | None) -> Choices:
    """Return what there is to choose from, by stepping from one value to the next in its index."""
    with database.read() as session:
        return Choices(
            _distinct(session, Video.size, Video.owner, only), _distinct(session, VideoLora.name, VideoLora.owner, only)
        )


def _listed(which: Filter, source: Any, where: Sequence[ColumnElement[bool]], highest: int) -> Any:
    """Return a statement for what the index has of these times, in order."""
    place = col(source.place)
    if which.finished_before is not None:  # one upper bound only: SQLite would read the index from either of two
        highest = min(highest, videos.first_place(which.finished_before) - 1)
    where = [*where, place <= highest]
    if which.finished_after is not None:
        where.append(place >= videos.first_place(which.finished_after))
    # Sorted by all columns of the index that has this order, although most are constant: PostgreSQL reads another
    # index, or sorts, where it knows a value to be common.
    return select(source.job_id, place).where(*where).order_by(*(col(one).desc() for one in _key(which, source)))


def _checked(
    session: Session, which: Filter, listed: Any, source: Any, checks: Sequence[ColumnElement[bool]]
) -> list[tuple[str, int]]:
    """Return those of the newest videos of the index that pass the checks and have all words."""
    if source is Video:  # its rows need not be looked up
        inner = listed.add_columns(Video.prompt).limit(LOOKED_THROUGH).subquery()
        prompt, of_inner = inner.c.prompt, []
    else:
        inner = listed.limit(LOOKED_THROUGH).subquery()
        prompt, of_inner = col(Video.prompt), [col(Video.job_id) == inner.c.job_id]
    words = [prompt.contains(word, autoescape=True) for word in which.words]
    query = select(inner.c.job_id, inner.c.place).where(*of_inner, *checks, *words)
    return _pairs(session, query.order_by(inner.c.place.desc()))


def _is_beyond(session: Session, listed: Any, number: int) -> bool:
    return session.connection().execute(listed.offset(number).limit(1)).first() is not None


def _pairs(session: Session, query: Any) -> list[tuple[str, int]]:
    return [(str(job_id), int(place)) for job_id, place in session.connection().execute(query)]


def _source(which: Filter) -> tuple[Any, list[ColumnElement[bool]], list[ColumnElement[bool]]]:
    """Return the table in whose order the list is, what its index finds, and what is checked on each video."""
    checks: list[ColumnElement[bool]] = []
    of_video = [col(column) == value for column, value in _fields(which)]
    if which.lora is not None:
        has_lora = exists().where(col(VideoLora.job_id) == col(Video.job_id), col(VideoLora.name) == which.lora)
    if which.collection_id is not None or which.favourite:
        checks += of_video + ([has_lora] if which.lora is not None else [])
    if which.collection_id is not None:
        if which.favourite:
            mine = (col(Favourite.holder) == which.holder, col(Favourite.job_id) == col(Video.job_id))
            checks.append(exists().where(*mine))
        return CollectedVideo, [col(CollectedVideo.collection_id) == which.collection_id], checks
    if which.favourite:
        return Favourite, [col(Favourite.holder) == which.holder], checks
    if which.lora is None:
        return Video, of_video, checks
    of_lora = [col(VideoLora.name) == which.lora]
    if which.only is not None:
        of_lora.append(col(VideoLora.owner) == which.only)
    checks += [col(column) == value for column, value in _fields(which) if column is not Video.owner]
    return VideoLora, of_lora, checks


def _fields(which: Filter) -> list[tuple[Any, str]]:
    fields = ((Video.owner, which.only), (Video.model_id, which.model_id), (Video.size, which.size))
    return [(column, value) for column, value in fields if value is not None]


def _key(which: Filter, source: Any) -> list[Any]:
    """Return the columns of the index that is read."""
    if source is Video:
        constant: list[Any] = [column for column, _ in _fields(which)]
    elif source is VideoLora:
        constant = [*([VideoLora.owner] if which.only is not None else []), VideoLora.name]
    else:
        constant = [Favourite.holder if source is Favourite else CollectedVideo.collection_id]
    return [*constant, source.place]


def _shown(session: Session, holder: str, found: Sequence[tuple[str, int]]) -> list[Shown]:
    job_ids = [job_id for job_id, _ in found]
    jobs = {job.id: job for job in session.exec(select(Job).where(col(Job.id).in_(job_ids)))}
    mine = favourites.among(session, holder, job_ids)
    collected = collections.of_videos(session, holder, job_ids)
    return [
        Shown(jobs[job_id], place, job_id in mine, collected.get(job_id, ()))
        for job_id, place in found
        if job_id in jobs
    ]


def _distinct(session: Session, column: Any, owner: Any, only: str | None) -> list[str]:
    mine = [col(owner) == only] if only is not None else []
    values = select(func.min(column).label("value")).where(*mine).cte("found", recursive=True)
    following = select(func.min(column)).where(*mine, col(column) > values.c.value).scalar_subquery()
    values = values.union_all(select(following).where(values.c.value.is_not(None)))
    rows = session.connection().execute(select(values.c.value).where(values.c.value.is_not(None)).limit(_CHOICES))
    return [str(value) for value in rows.scalars()]
