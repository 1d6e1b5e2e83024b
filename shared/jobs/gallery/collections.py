"""Collections: named sets of videos, each of the holder of one key. Locks are taken in one order: jobs, collections."""

from collections.abc import Collection as Some
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from shared import clock
from shared.database.engine import Database, hold, is_repetition, settled
from shared.database.tables import CollectedVideo, Collection
from shared.errors import Conflict, NotFound
from shared.jobs import ids
from shared.jobs.gallery import favourites

MOST = 100  # of one holder
MOST_VIDEOS = 10_000  # in one collection


@dataclass(frozen=True)
class Counted:
    """A collection and the number of its videos."""

    collection: Collection
    videos: int


def create(database: Database, holder: str, name: str) -> Collection:
    """Store an empty collection. Raises Conflict if the holder has one of that name, or too many."""
    return _create(database, Collection(id=ids.new_id(), holder=holder, name=name, created_at=clock.now()))


@settled
def _create(database: Database, new: Collection) -> Collection:
    with database.write() as session:
        if is_repetition() and (stored := session.get(Collection, new.id)) is not None:
            return stored
        hold(session, f"collections of {new.holder}")
        if session.exec(select(func.count()).where(col(Collection.holder) == new.holder)).one() >= MOST:
            raise Conflict(f"There are {MOST} collections already, which is the limit. Delete one first")
        _require_free(session, new.holder, new.name, new.id)
        row = Collection(**new.model_dump())
        session.add(row)
    return row


def every(database: Database, holder: str) -> list[Counted]:
    """Return the holder's collections by name."""
    with database.read() as session:
        rows = session.exec(select(Collection).where(Collection.holder == holder).order_by(col(Collection.name))).all()
        return _counted(session, rows)


def get(database: Database, holder: str, collection_id: str) -> Counted:
    """Return one collection of the holder. Raises NotFound."""
    with database.read() as session:
        return _counted(session, [_own(session, holder, collection_id)])[0]


def change(
    database: Database,
    holder: str,
    collection_id: str,
    *,
    name: str | None = None,
    add: Some[str] = (),
    remove: Some[str] = (),
    only: str | None = None,
) -> Counted:
    """Rename the collection, add videos and remove some, in one transaction. Idempotent.

    `only`: the owner whose jobs the holder sees; None: of any. Raises NotFound, and Conflict for a name that is taken,
    a job without a video, and too many videos.
    """
    return _change(database, holder, collection_id, name, sorted(set(add)), set(remove), only)


@settled
def _change(
    database: Database,
    holder: str,
    collection_id: str,
    name: str | None,
    add: Sequence[str],
    remove: Some[str],
    only: str | None,
) -> Counted:
    with database.write() as session:
        jobs = favourites.require_videos(session, add, only) if add else []
        if name is not None:
            hold(session, f"collections of {holder}")
        row = _own(session, holder, collection_id, lock=True)
        if name is not None:
            _require_free(session, holder, name, row.id)
            row.name = name
            session.add(row)
        if remove:
            out = (col(CollectedVideo.collection_id) == row.id, col(CollectedVideo.job_id).in_(remove))
            session.connection().execute(delete(CollectedVideo).where(*out))
        there = select(CollectedVideo.job_id).where(
            CollectedVideo.collection_id == row.id, col(CollectedVideo.job_id).in_(add)
        )
        known = set(session.exec(there)) if add else set()
        new = [job for job in jobs if job.id not in known]
        if new and _count(session, row.id) + len(new) > MOST_VIDEOS:
            raise Conflict(f"A collection has at most {MOST_VIDEOS:,} videos. Remove some first, or create another")
        session.add_all(
            CollectedVideo(collection_id=row.id, job_id=job.id, place=favourites.place_of(job)) for job in new
        )
        session.flush()
        return Counted(row, _count(session, row.id))


@settled
def remove(database: Database, holder: str, collection_id: str) -> None:
    """Delete the collection, but not its videos. Raises NotFound."""
    with database.write() as session:
        if is_repetition() and session.get(Collection, collection_id) is None:
            return
        row = _own(session, holder, collection_id, lock=True)
        session.connection().execute(delete(CollectedVideo).where(col(CollectedVideo.collection_id) == row.id))
        session.delete(row)


def of_videos(session: Session, holder: str, job_ids: Some[str]) -> dict[str, list[str]]:
    """Return the ids of the holder's collections that each of these videos is in."""
    query = (
        select(CollectedVideo.job_id, CollectedVideo.collection_id)
        .join(Collection, col(Collection.id) == col(CollectedVideo.collection_id))
        .where(col(CollectedVideo.job_id).in_(job_ids), Collection.holder == holder)
    )
    found: dict[str, list[str]] = {}
    for job_id, collection_id in session.exec(query):
        found.setdefault(job_id, []).append(collection_id)
    return {job_id: sorted(mine) for job_id, mine in found.items()}


def require(session: Session, holder: str, collection_id: str) -> None:
    """Raise NotFound if the holder has no such collection."""
    _own(session, holder, collection_id)


def _own(session: Session, holder: str, collection_id: str, *, lock: bool = False) -> Collection:
    row = session.get(Collection, collection_id, with_for_update=lock)
    if row is None or row.holder != holder:
        raise NotFound("collection", collection_id)
    return row


def _require_free(session: Session, holder: str, name: str, own: str) -> None:
    taken = select(Collection.id).where(Collection.holder == holder, Collection.name == name, Collection.id != own)
    if session.exec(taken).first() is not None:
        raise Conflict(f"There is a collection {name!r} already. Choose another name")


def _count(session: Session, collection_id: str) -> int:
    return session.exec(select(func.count()).where(col(CollectedVideo.collection_id) == collection_id)).one()


def _counted(session: Session, rows: Sequence[Collection]) -> list[Counted]:
    per = (
        select(CollectedVideo.collection_id, func.count())
        .where(col(CollectedVideo.collection_id).in_([row.id for row in rows]))
        .group_by(col(CollectedVideo.collection_id))
    )
    counts = dict(session.exec(per).all()) if rows else {}
    return [Counted(row, counts.get(row.id, 0)) for row in rows]
