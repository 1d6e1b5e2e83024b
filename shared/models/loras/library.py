"""The library of LoRAs: add, list, share and remove them, and resolve the names in requests to files.

Sole writer of the table `loras`. A name is one LoRA's, in the whole installation. A file is never overwritten: another
content needs another name, or the removal of the first. A job keeps the SHA-256 of the files that it was accepted with.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import GENERATION, LoraFile
from shared.database.engine import Database, settled
from shared.database.tables import Job, StoredLora
from shared.errors import Conflict, NotFound
from shared.jobs.ids import new_id
from shared.models.loras.header import Described, Expert
from shared.states import JobState
from wanworks.requests import Lora

_GRACE = timedelta(hours=1)  # a request that was checked before the removal has been stored by then
_UNENDED = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class NewFile:
    """A file that is in the store already."""

    expert: Expert
    sha256: str
    bytes: int
    described: Described
    source: str  # upload, hub or url
    origin: str  # the repository and path, or the URL; empty for an upload

    def as_dict(self) -> dict[str, Any]:
        about = {"expert": self.expert, "sha256": self.sha256, "bytes": self.bytes, **self.described.as_dict()}
        return {**about, "source": self.source, "origin": self.origin}


def add(database: Database, name: str, file: NewFile, *, owner: str | None, description: str = "") -> StoredLora:
    """Add a LoRA, or the other half of a pair of the same owner. The same file again changes nothing.

    Raises Conflict if the name is taken, or has another file for that expert.
    """
    try:
        return _add(database, name, file, owner, description, new_id())
    except IntegrityError:
        return _add(database, name, file, owner, description, new_id())  # another request has just added it


@settled
def _add(database: Database, name: str, file: NewFile, owner: str | None, description: str, new: str) -> StoredLora:
    with database.write() as session:
        row = _named(session, name)
        if row is None:
            row = StoredLora(id=new, name=name, owner=owner, description=description, created_at=clock.now())
        elif row.owner != owner:
            raise Conflict(f"There is a LoRA named {name!r} already; choose another name")
        check_room(row, file.expert, file.sha256)
        if not any(one["expert"] == file.expert for one in row.files):
            row.files = [*row.files, file.as_dict()]
        if description:
            row.description = description
        session.add(row)
        session.flush()
        session.refresh(row)
    return row


def check_room(row: StoredLora, expert: Expert, sha256: str | None) -> None:
    """Raise Conflict if the LoRA cannot have a file for that expert. `sha256` None: the content is not known yet."""
    experts = {one["expert"]: one["sha256"] for one in row.files}
    if expert in experts:
        if sha256 is not None and experts[expert] != sha256:
            raise Conflict(
                f"The LoRA {row.name!r} has another file for {expert!r}, and files are never overwritten; remove the "
                "LoRA first, or choose another name"
            )
    elif experts and "both" in (expert, *experts):
        raise Conflict(
            f"The LoRA {row.name!r} has files for {', '.join(experts)}; it can have one for both experts, or one each "
            "for high and low"
        )


def check_name(database: Database, name: str, expert: Expert, owner: str | None) -> None:
    """Raise Conflict if `add` would, as far as it is known before the content is."""
    with database.read() as session:
        row = _named(session, name)
    if row is not None and row.owner != owner:
        raise Conflict(f"There is a LoRA named {name!r} already; choose another name")
    if row is not None:
        check_room(row, expert, None)


def visible(database: Database, only: str | None) -> list[StoredLora]:
    """Return the LoRAs that a caller may use, by name. `only`: the key; None: all are visible."""
    with database.read() as session:
        rows = session.exec(select(StoredLora).where(col(StoredLora.removed_at).is_(None)).order_by(StoredLora.name))
        return [row for row in rows if may_use(row, only)]


def may_use(row: StoredLora, only: str | None) -> bool:
    """Return whether the caller may use the LoRA: its own one, or one that is shared with it."""
    return only is None or row.shared or row.owner == only or only in row.shared_with


def get(database: Database, lora_id: str, only: str | None) -> StoredLora:
    """Return a LoRA by its id. Raises NotFound, also for one that the caller may not use."""
    with database.read() as session:
        row = session.get(StoredLora, lora_id)
    if row is None or row.removed_at is not None or not may_use(row, only):
        raise NotFound("LoRA", lora_id)
    return row


@settled
def change(database: Database, lora_id: str, changes: Mapping[str, Any]) -> StoredLora:
    """Change `description`, `shared` or `shared_with`. Raises NotFound."""
    with database.write() as session:
        row = session.get(StoredLora, lora_id, with_for_update=True)
        if row is None or row.removed_at is not None:
            raise NotFound("LoRA", lora_id)
        for name, value in changes.items():
            setattr(row, name, value)
        session.add(row)
        session.flush()
        session.refresh(row)
    return row


@settled
def remove(database: Database, lora_id: str) -> None:
    """Remove a LoRA. Jobs that were accepted with it keep its files until they end. Removing it again does nothing."""
    with database.write() as session:
        query = update(StoredLora).where(col(StoredLora.id) == lora_id, col(StoredLora.removed_at).is_(None))
        session.connection().execute(query.values(removed_at=clock.now()))


def resolve(database: Database, loras: Sequence[Lora], only: str | None) -> dict[str, tuple[LoraFile, ...]]:
    """Return the files of those LoRAs that are in the library and that the caller may use, by name."""
    names = [lora.name for lora in loras]
    with database.read() as session:
        query = select(StoredLora).where(col(StoredLora.name).in_(names), col(StoredLora.removed_at).is_(None))
        rows = [row for row in session.exec(query) if may_use(row, only)]
    return {row.name: files_of(row) for row in rows}


def files_of(row: StoredLora) -> tuple[LoraFile, ...]:
    """Return what a job keeps of the LoRA."""
    kept = ("expert", "sha256", "bytes")
    return tuple(LoraFile(name=row.name, **{name: one[name] for name in kept}) for one in row.files)


def gone(database: Database, files: Collection[LoraFile]) -> list[str]:
    """Return the names of the LoRAs whose files are not in the library any more."""
    there = known(database) if files else set()
    return sorted({file.name for file in files if file.sha256 not in there})


def known(database: Database) -> set[str]:
    """Return the SHA-256 of the files of all LoRAs, also of removed ones that jobs still need."""
    with database.read() as session:
        return _hashes(session.exec(select(StoredLora)))


def forget_unused(database: Database) -> int:
    """Forget removed LoRAs that no job needs any more. Return how many. The sweep then removes their files."""
    with database.read(snapshot=True) as session:  # a transaction, which reading in parts needs
        query = select(StoredLora).where(col(StoredLora.removed_at) < clock.now() - _GRACE)
        removed = list(session.exec(query))
        if not removed:
            return 0
        needed = _needed(session)
    free = [row.id for row in removed if not _hashes([row]) & needed]
    _forget(database, free)
    return len(free)


@settled
def _forget(database: Database, ids: Sequence[str]) -> None:
    with database.write() as session:
        session.connection().execute(delete(StoredLora).where(col(StoredLora.id).in_(ids)))


def _needed(session: Session) -> set[str]:
    """Return the SHA-256 of the files that jobs need which have not ended."""
    query = select(Job.params).where(col(Job.status).in_(_UNENDED), col(Job.type) == GENERATION)
    found = set()
    for params in session.exec(query.execution_options(yield_per=1000)):
        found |= {one["sha256"] for one in params.get("lora_files", ())}
    return found


def _hashes(rows: Iterable[StoredLora]) -> set[str]:
    return {str(file["sha256"]) for row in rows for file in row.files}


def _named(session: Session, name: str) -> StoredLora | None:
    query = select(StoredLora).where(StoredLora.name == name, col(StoredLora.removed_at).is_(None)).with_for_update()
    return session.exec(query).first()
