"""Find jobs by the beginning of their id or by words of their prompt.

The prompts of a million jobs stand in no index, so one page looks at so many jobs at most, newest first, and says how
far it came: the next page continues there.
"""

import re
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs.reading import lists

LOOKED_AT = 10_000  # jobs on one page at most
_AT_ONCE = 1_000
_ID_START = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,28}")


@dataclass(frozen=True)
class Found:
    """The jobs that match. `next`: the last job that was looked at, if there are more; `looked_at`: how many were."""

    jobs: list[Job]
    next: str | None
    looked_at: int


def page(
    database: Database,
    text: str,
    *,
    only: str | None,
    limit: int,
    after: str | None = None,
    oldest_first: bool = False,
    **filters: Any,
) -> Found:
    """Return a page of the jobs whose id begins with the text, or whose prompt has all of its words."""
    wanted = text.strip().lower()
    words = wanted.casefold().split()
    found: list[str] = []
    looked_at = 0
    with database.read(snapshot=True) as session:
        if _ID_START.fullmatch(wanted) and after is None:
            found = _of_id(session, wanted, only, limit)
        last, more = after, True
        while more and looked_at < LOOKED_AT and len(found) < limit:
            ids, more = lists.listed_ids(
                session, only=only, limit=_AT_ONCE, after=last, oldest_first=oldest_first, **filters
            )
            prompts = _prompts(session, ids)
            for job_id in ids:
                looked_at += 1
                last = job_id
                prompt = prompts.get(job_id, "")
                if job_id not in found and all(word in prompt for word in words):
                    found.append(job_id)
                    if len(found) == limit:
                        more = more or job_id != ids[-1]
                        break
        rows = {job.id: job for job in session.exec(select(Job).where(col(Job.id).in_(found)))}
    return Found([rows[job_id] for job_id in found if job_id in rows], last if more else None, looked_at)


def _of_id(session: Session, start: str, only: str | None, limit: int) -> list[str]:
    """Return the newest jobs whose id begins so, whatever the filters: an id means that job."""
    query = select(Job.id).where(col(Job.id) >= start, col(Job.id) < f"{start}g", col(Job.deleted).is_(False))
    if only is not None:
        query = query.where(col(Job.owner) == only)
    return list(session.exec(query.order_by(col(Job.id).desc()).limit(limit)))


def _prompts(session: Session, ids: list[str]) -> dict[str, str]:
    prompt: Any = col(Job.params)["prompt"].as_string()
    query: Any = select(Job.id, prompt).where(col(Job.id).in_(ids))
    return {job_id: text.casefold() for job_id, text in session.connection().execute(query) if text}
