"""The files of replicas as last verified, and the blobs of each node's cache, as rows. It does not read the disk.

With `replicas.py` and `removals.py` the only writer of `replicas`. Sole writer of `blobs` and, except for removals, of
`replica_files`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from shared.database.engine import Database, hold, settled
from shared.database.tables import Blob, Replica, ReplicaFile
from shared.models.prepared import recipe_of
from shared.models.verification import Fault, FaultType, Verdict
from shared.states import REPLICA_READY, ReplicaState


@dataclass(frozen=True)
class FileState:
    """One file as it was found. While `mtime` and `inode` are unchanged it need not be read again."""

    path: str
    size: int  # expected, in bytes
    oid: str  # expected
    mtime: float | None
    inode: int | None
    verified_at: datetime | None  # when it was last read and found correct
    fault: FaultType | None = None


@dataclass(frozen=True)
class BlobState:
    """One blob or partial blob in a node's cache."""

    repo: str
    name: str
    bytes: int
    partial: bool
    modified_at: datetime
    revisions: tuple[str, ...]
    prepared: bool = False  # whether copies alone use it
    shared: bool = False  # whether another repository has the same file


def replicas_of(node: str) -> str:
    """Return the name of the lock for adding rows to a node's replicas."""
    return f"replicas of {node}"


def files(database: Database, node: str, model_id: str, revision: str) -> dict[str, ReplicaFile]:
    """Return the rows of that revision's files, by path."""
    query = select(ReplicaFile).where(
        ReplicaFile.node == node, ReplicaFile.model_id == model_id, ReplicaFile.revision == revision
    )
    with database.read() as session:
        return {row.path: row for row in session.exec(query)}


def suspects(database: Database, node: str, model_id: str) -> frozenset[str]:
    """Return the checksums of files that were last found wrong. Blobs of these names must not be trusted."""
    query = select(ReplicaFile.oid).where(
        ReplicaFile.node == node, ReplicaFile.model_id == model_id, col(ReplicaFile.fault).is_not(None)
    )
    with database.read() as session:
        return frozenset(session.exec(query))


def record_files(database: Database, node: str, model_id: str, revision: str, found: Iterable[FileState]) -> None:
    """Store files as they are verified, so that a stopped attempt need not read them again."""
    rows = [_row(node, model_id, revision, state) for state in found]
    if rows:
        with database.write() as session:
            hold(session, _files_of(node, model_id))
            for row in rows:
                session.merge(row)


@settled
def take_out(database: Database, node: str, model_id: str, revision: str, faults: Sequence[Fault]) -> bool:
    """Take a replica out of service: mark it as corrupted, and loaded models as stale.

    Return False if it has another revision by now or is being removed.
    """
    with database.write() as session:
        row = _locked(session, node, model_id)
        if row is None or row.revision != revision or row.state == ReplicaState.REMOVING:
            return False
        row.generation += row.state in REPLICA_READY
        row.state = ReplicaState.CORRUPTED
        known = {fault["path"]: fault for fault in row.faults}
        row.faults = list((known | {fault.path: fault.as_dict() for fault in faults}).values())
        session.add(row)
        return True


@settled
def record_verification(
    database: Database,
    node: str,
    model_id: str,
    revision: str,
    verdict: Verdict,
    found: Sequence[FileState],
    *,
    full: bool,
    at: datetime,
) -> bool:
    """Store the result of verifying all files of a revision. Return whether the replica's state has changed.

    A corrupted replica without remaining faults is available again, with a new generation number. Nothing is written if
    the replica has another revision by now or is being removed.
    """
    with database.write() as session:
        row = _locked(session, node, model_id)
        if row is None or row.revision != revision or row.state == ReplicaState.REMOVING:
            return False
        before = row.state
        if verdict.faults:
            row.state = ReplicaState.CORRUPTED
        elif row.state == ReplicaState.CORRUPTED:
            row.state = ReplicaState.AVAILABLE
        row.generation += row.state != before
        row.faults = [fault.as_dict() for fault in verdict.faults]
        row.missing_files = [fault.path for fault in verdict.faults if fault.type == FaultType.MISSING_FILE]
        row.verified_at = at
        row.verified_full = full
        row.verified_bytes = verdict.verified_bytes
        row.expected_bytes = verdict.expected_bytes
        session.add(row)
        _replace(session, node, model_id, revision, found)
        return row.state != before


@settled
def record_download(
    database: Database,
    node: str,
    model_id: str,
    repo: str,
    revision: str,
    found: Sequence[FileState],
    at: datetime,
    requires: str | None = None,
) -> None:
    """Record that a revision was downloaded and verified, and is now used by the node.

    `requires`: of a preset, whose own files these are, the model whose files it needs too.
    """
    size = sum(file.size for file in found)
    with database.write() as session:
        hold(session, replicas_of(node))
        row = _locked(session, node, model_id) or Replica(
            node=node, model_id=model_id, state=ReplicaState.MISSING, repo=repo, missing_files=[], checked_at=at
        )
        row.generation += row.state != ReplicaState.AVAILABLE or row.revision != revision
        row.state = ReplicaState.AVAILABLE
        row.repo, row.requires = repo, requires
        row.revision = revision
        row.bytes = row.verified_bytes = row.expected_bytes = size
        row.faults = []
        row.missing_files = []
        row.checked_at = row.verified_at = at
        row.verified_full = True
        session.add(row)
        copies = [state for state in _states(session, node, model_id, revision) if recipe_of(state.path) is not None]
        _replace(session, node, model_id, revision, [*found, *copies])


@settled
def record_prepared(
    database: Database,
    node: str,
    model_id: str,
    revision: str,
    found: Sequence[FileState],
    names: Sequence[str],
    removed: Collection[str] = (),
) -> bool:
    """Record the files of all copies of a revision, verified as they were written.

    `names`: the copies, as `component form`. `removed`: published files that were removed because copies stand in for
    them. Return False, and write nothing, if the replica has another revision by now or is being removed.
    """
    with database.write() as session:
        row = _locked(session, node, model_id)
        if row is None or row.revision != revision or row.state == ReplicaState.REMOVING:
            return False
        hold(session, _files_of(node, model_id))
        before = _states(session, node, model_id, revision)
        published = [state for state in before if recipe_of(state.path) is None and state.path not in removed]
        states = [*published, *found]
        row.prepared = list(names)
        row.expected_bytes = sum(state.size for state in states)
        row.verified_bytes = sum(
            state.size for state in states if state.fault is None and state.verified_at is not None
        )
        session.add(row)
        _replace(session, node, model_id, revision, states)
        return True


def record_blobs(database: Database, node: str, found: Iterable[BlobState]) -> int:
    """Store the blobs of the node's cache. Return how many rows changed. Without changes, no lock is taken.

    Several processes of a node may do this at once; the second compares with what the first has written.
    """
    present = {(blob.repo, blob.name): _blob(node, blob) for blob in found}
    changed, gone = _differences(present, blobs(database, node))
    if not changed and not gone:
        return 0
    with database.write() as session:
        hold(session, f"blobs of {node}")
        changed, gone = _differences(present, session.exec(_blobs_of(node)).all())
        for blob in changed:
            session.merge(blob)
        for blob in gone:
            session.delete(blob)
    return len(changed) + len(gone)


def blobs(database: Database, node: str) -> list[Blob]:
    """Return the blobs of the node's cache by its last scan."""
    with database.read() as session:
        return list(session.exec(_blobs_of(node)))


def _blobs_of(node: str) -> SelectOfScalar[Blob]:
    return select(Blob).where(Blob.node == node)


def _differences(present: Mapping[tuple[str, str], Blob], rows: Sequence[Blob]) -> tuple[list[Blob], list[Blob]]:
    """Return (new or changed blobs, rows of blobs that no longer exist)."""
    known = {(row.repo, row.name): row for row in rows}
    changed = [blob for key, blob in present.items() if key not in known or _differs(blob, known[key])]
    return changed, [row for key, row in known.items() if key not in present]


def _files_of(node: str, model_id: str) -> str:
    """Return the name of the lock on those rows. Several processes of a node may insert the same files."""
    return f"files of {node} {model_id}"


def _locked(session: Session, node: str, model_id: str) -> Replica | None:
    query = select(Replica).where(Replica.node == node, Replica.model_id == model_id).with_for_update()
    return session.exec(query).one_or_none()


def _replace(session: Session, node: str, model_id: str, revision: str, found: Iterable[FileState]) -> None:
    hold(session, _files_of(node, model_id))
    mine = (col(ReplicaFile.node) == node, col(ReplicaFile.model_id) == model_id)
    session.connection().execute(delete(ReplicaFile).where(*mine))
    session.add_all([_row(node, model_id, revision, state) for state in found])


def _states(session: Session, node: str, model_id: str, revision: str) -> list[FileState]:
    query = select(ReplicaFile).where(
        ReplicaFile.node == node, ReplicaFile.model_id == model_id, ReplicaFile.revision == revision
    )
    found = []
    for row in session.exec(query):
        fault = FaultType(row.fault) if row.fault is not None else None
        found.append(FileState(row.path, row.size, row.oid, row.mtime, row.inode, row.verified_at, fault))
        session.expunge(row)  # the row is replaced
    return found


def _row(node: str, model_id: str, revision: str, state: FileState) -> ReplicaFile:
    return ReplicaFile(
        node=node,
        model_id=model_id,
        path=state.path,
        revision=revision,
        size=state.size,
        oid=state.oid,
        mtime=state.mtime,
        inode=state.inode,
        verified_at=state.verified_at,
        fault=state.fault,
        recipe=recipe_of(state.path),
    )


def _blob(node: str, blob: BlobState) -> Blob:
    return Blob(
        node=node,
        repo=blob.repo,
        name=blob.name,
        bytes=blob.bytes,
        partial=blob.partial,
        modified_at=blob.modified_at,
        revisions=list(blob.revisions),
        prepared=blob.prepared,
        shared=blob.shared,
    )


def _differs(blob: Blob, known: Blob) -> bool:
    fields: Mapping[str, object] = blob.model_dump()
    return fields != known.model_dump()
