"""Pages of jobs, newest or oldest first, under any filter, from a table of any size.

Jobs of one kind (state, type, model) are in order in one index. A filtered page merges the first jobs of each matching
kind, so its cost depends on the number of kinds, not on how many jobs the filter excludes.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Integer, String, bindparam, func, literal, tuple_, union_all
from sqlmodel import Session, col, select

from shared.database.engine import Database
from shared.database.tables import Job
from shared.states import JobState

# A job's id is created before its row's creation time, by at most this much.
_ID_IS_OLDER = timedelta(minutes=5)
_LOWEST, _HIGHEST = (str(uuid.UUID(int=value)) for value in (0, 2**128 - 1))

Kind = tuple[str, str, str | None]
"""State, type and model of a job."""


@dataclass(frozen=True)
class Page:
    jobs: list[Job]
    has_more: bool


@dataclass(frozen=True)
class _Filter:
    """The conditions for a job to be on the page, except its kind."""

    owner: str | None
    created_after: datetime | None
    after: str | None
    oldest_first: bool
    created_before: datetime | None = None
    upto: str | None = None

    def ids(self, session: Session, limit: int, kind: Kind | None = None) -> list[str]:
        """Return the ids of the first matching jobs in order; of that kind, if given."""
        low, high = _LOWEST, _HIGHEST
        if self.created_after is not None:
            low = _first_id(self.created_after - _ID_IS_OLDER)
        if self.created_before is not None:
            high = _first_id(self.created_before + timedelta(milliseconds=1))
        if self.upto is not None:
            high = min(high, self.upto)
        if self.after is not None:
            low, high = (max(low, self.after), high) if self.oldest_first else (low, min(high, self.after))
        which = _Which(
            owned=self.owner is not None,
            since=self.created_after is not None,
            until=self.created_before is not None,
            of_kind=kind is not None,
            of_model=kind is not None and kind[2] is not None,
            oldest_first=self.oldest_first,
            beyond=self.after is not None and self.after == (low if self.oldest_first else high),
        )
        status, type, model_id = kind or ("", "", None)
        values = {
            "its_owner": self.owner, "its_since": self.created_after, "its_status": status, "its_type": type,
            "its_model": model_id, "its_low": low, "its_high": high, "its_limit": limit, "its_end": self.created_before,
        }  # fmt: skip
        return list(session.connection().execute(_first(which), values).scalars())


@dataclass(frozen=True)
class _Which:
    """The conditions of the statement that finds the first jobs."""

    owned: bool
    since: bool
    until: bool
    of_kind: bool
    of_model: bool
    oldest_first: bool
    beyond: bool  # whether the page begins after a given job


@cache
def _first(which: _Which) -> Any:
    """Build the statement once for all lists with the same conditions: building it takes longer than executing it."""
    where: list[ColumnElement[bool]] = [col(Job.deleted).is_(False)]
    if which.owned:
        where.append(col(Job.owner) == bindparam("its_owner"))
    if which.since:
        where.append(col(Job.created_at) > bindparam("its_since"))
    if which.until:
        where.append(col(Job.created_at) < bindparam("its_end"))
    key: list[Any] = [col(Job.id)]
    low: Any = bindparam("its_low", type_=String)
    high: Any = bindparam("its_high", type_=String)
    place: Any = col(Job.id)
    if which.of_kind:
        where += [col(Job.status) == bindparam("its_status"), col(Job.type) == bindparam("its_type")]
        # The model is compared and sorted by although it is constant: only the index of kinds has this order, and
        # PostgreSQL would use another index, or none, for a kind that it knows to be common.
        key.insert(0, col(Job.model_id))
        if which.of_model:
            model = bindparam("its_model", type_=String)
            place, low, high = tuple_(*key), tuple_(model, low), tuple_(model, high)
        else:
            where.append(col(Job.model_id).is_(None))
    where.append(place > low if which.beyond and which.oldest_first else place >= low)
    where.append(place < high if which.beyond and not which.oldest_first else place <= high)
    order = [column.asc() if which.oldest_first else column.desc() for column in key]
    return select(Job.id).where(*where).order_by(*order).limit(bindparam("its_limit", type_=Integer))


def page(
    database: Database,
    *,
    only: str | None = None,
    limit: int,
    after: str | None = None,
    type: str | None = None,
    status: str | None = None,
    model_id: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    batch_id: str | None = None,
    ids: Sequence[str] | None = None,
    upto: str | None = None,
    oldest_first: bool = False,
) -> Page:
    """Return a page of jobs, newest first by default. `after`: id of the last job seen. `only` as in `records.get`.

    `upto`: no job with a higher id.
    """
    # A job that changes its state between two statements would be on the page twice, or not at all.
    with database.read(snapshot=True) as session:
        listed, more = listed_ids(
            session, only=only, limit=limit, after=after, type=type, status=status, model_id=model_id,
            created_after=created_after, created_before=created_before, batch_id=batch_id, ids=ids, upto=upto,
            oldest_first=oldest_first,
        )  # fmt: skip
        shown = {job.id: job for job in session.exec(select(Job).where(col(Job.id).in_(listed)))}
    found = [shown[job_id] for job_id in listed if job_id in shown]
    # A job that has changed its state since is not listed under the old state.
    return Page([job for job in found if status is None or job.status == status], has_more=more)


def listed_ids(
    session: Session,
    *,
    only: str | None = None,
    limit: int,
    after: str | None = None,
    type: str | None = None,
    status: str | None = None,
    model_id: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    batch_id: str | None = None,
    ids: Sequence[str] | None = None,
    upto: str | None = None,
    oldest_first: bool = False,
) -> tuple[list[str], bool]:
    """Return the ids of the jobs that `page` lists, and whether more follow."""
    which = _Filter(only, created_after, after, oldest_first, created_before, upto)
    if batch_id is not None or ids is not None:
        found = _of_few(session, which, batch_id, ids, type, status, model_id)[: limit + 1]
    elif type is None and status is None and model_id is None:
        found = which.ids(session, limit + 1)
    else:
        found = _first_of(session, which, _kinds(session, only, type, status, model_id), limit + 1)
    return found[:limit], len(found) > limit


def count(
    database: Database,
    *,
    only: str | None = None,
    type: str | None = None,
    status: str | None = None,
    model_id: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    batch_id: str | None = None,
    ids: Sequence[str] | None = None,
    upto: str | None = None,
    after: str | None = None,
    most: int | None = None,
    also: Sequence[ColumnElement[bool]] = (),
) -> int:
    """Return how many jobs `page` would return in all its pages, oldest first; with `most`, at most that many.

    `also`: further conditions that a job must meet to be counted.
    """
    equal = ((Job.owner, only), (Job.type, type), (Job.status, status), (Job.model_id, model_id))
    where: list[ColumnElement[bool]] = [col(Job.deleted).is_(False)]
    where += [col(column) == value for column, value in (*equal, (Job.batch_id, batch_id)) if value is not None]
    where += [col(Job.id).in_(ids)] if ids is not None else []
    if created_after is not None:
        where += [col(Job.created_at) > created_after, col(Job.id) >= _first_id(created_after - _ID_IS_OLDER)]
    if created_before is not None:
        where += [
            col(Job.created_at) < created_before,
            col(Job.id) < _first_id(created_before + timedelta(milliseconds=1)),
        ]
    where += [col(Job.id) <= upto] if upto is not None else []
    where += [col(Job.id) > after] if after is not None else []
    found = select(Job.id).where(*where, *also)
    found = found if most is None else found.limit(most)
    with database.read() as session:
        return int(session.exec(select(func.count()).select_from(found.subquery())).one())


def _of_few(
    session: Session,
    which: _Filter,
    batch_id: str | None,
    ids: Sequence[str] | None,
    type: str | None,
    status: str | None,
    model_id: str | None,
) -> list[str]:
    """Return the ids of all matching jobs of the batch, or of these jobs. They are few, so they are sorted here."""
    columns: tuple[Any, ...] = (Job.id, Job.type, Job.status, Job.model_id, Job.owner, Job.created_at)
    few = [col(Job.batch_id) == batch_id] if batch_id is not None else []
    few += [col(Job.id).in_(ids)] if ids is not None else []
    query: Any = select(*columns).where(*few, col(Job.deleted).is_(False))
    found = [
        row[0]
        for row in session.exec(query)
        if (type is None or row[1] == type)
        and (status is None or row[2] == status)
        and (model_id is None or row[3] == model_id)
        and (which.owner is None or row[4] == which.owner)
        and (which.created_after is None or row[5] > which.created_after)
        and (which.created_before is None or row[5] < which.created_before)
        and (which.upto is None or row[0] <= which.upto)
        and (which.after is None or (row[0] > which.after if which.oldest_first else row[0] < which.after))
    ]
    return sorted(found, reverse=not which.oldest_first)


def newest(session: Session, status: JobState, limit: int) -> list[str]:
    """Return the ids of the newest jobs in that state, newest first."""
    return _first_of(session, _Filter(None, None, None, False), _kinds(session, None, None, status, None), limit)


def first_of_states(
    session: Session,
    states: Sequence[str],
    limit: int,
    *,
    only: str | None = None,
    type: str | None = None,
    model_id: str | None = None,
    after: str | None = None,
    oldest_first: bool = False,
) -> list[str]:
    """Return the ids of the first jobs in any of these states, newest first by default."""
    kinds = [kind for status in states for kind in _kinds(session, only, type, status, model_id)]
    return _first_of(session, _Filter(only, None, after, oldest_first), kinds, limit)


def _first_of(session: Session, which: _Filter, kinds: Sequence[Kind], limit: int) -> list[str]:
    """Return the ids of the first jobs of these kinds, in order."""
    found = [job_id for kind in kinds for job_id in which.ids(session, limit, kind)]
    return sorted(found, reverse=not which.oldest_first)[:limit]


def _kinds(
    session: Session, owner: str | None, type: str | None, status: str | None, model_id: str | None
) -> Sequence[Kind]:
    """Return the existing kinds that match, by stepping from one to the next in their index."""
    states = tuple(JobState) if status is None else (status,)
    query = _stepping(states, owned=owner is not None, of_type=type is not None, of_model=model_id is not None)
    rows = session.connection().execute(query, {"its_owner": owner, "its_type": type or ""})
    return [(*row, model_id) for row in rows] if model_id is not None else [(*row,) for row in rows]


@cache
def _stepping(states: tuple[str, ...], *, owned: bool, of_type: bool, of_model: bool) -> Any:
    of_owner = [col(Job.owner) == bindparam("its_owner")] if owned else []
    wanted: Any = bindparam("its_type", type_=String)
    of_states = union_all(*(select(literal(str(one)).label("status")) for one in states)).subquery()

    def next_type(status: Any, beyond: ColumnElement[bool]) -> Any:
        return select(func.min(Job.type)).where(*of_owner, Job.status == status, beyond).scalar_subquery()

    # The first type from the requested one on: for that type alone PostgreSQL would read the whole table.
    first: Any = select(of_states.c.status, next_type(of_states.c.status, col(Job.type) >= wanted).label("type"))
    types = first.cte("types", recursive=True)
    if not of_type:
        following = next_type(types.c.status, col(Job.type) > types.c.type)
        types = types.union_all(select(types.c.status, following).where(types.c.type.is_not(None)))
    exists = types.c.type == wanted if of_type else types.c.type.is_not(None)
    if of_model:
        return select(types.c.status, types.c.type).where(exists)

    def next_model(of: Any, *beyond: ColumnElement[bool]) -> Any:
        same = (Job.status == of.c.status, Job.type == of.c.type, col(Job.model_id).is_not(None))
        return select(func.min(Job.model_id)).where(*of_owner, *same, *beyond).scalar_subquery()

    first = select(types.c.status, types.c.type, next_model(types).label("model_id")).where(exists)
    models = first.cte("models", recursive=True)
    following = next_model(models, col(Job.model_id) > models.c.model_id)
    step = select(models.c.status, models.c.type, following).where(models.c.model_id.is_not(None))
    models = models.union_all(step)
    # Each list of models ends with NULL, for jobs without a model.
    return select(models)


def _first_id(moment: datetime) -> str:
    """Return the smallest UUIDv7 of that moment."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return str(uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (0b10 << 62)))
