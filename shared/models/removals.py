"""Removal of replicas without races: the row is marked first, under a lock shared with claims, then files are removed.

With `shared/models/replicas.py` and `shared/models/replica_files.py` the only writer of `replicas`. It reads no disk.
"""

from sqlalchemy import delete, or_, update
from sqlmodel import Session, col, select

from shared import clock
from shared.catalogue.job_types import BENCHMARK, CLEANUP, GENERATION
from shared.database.engine import Database, settled
from shared.database.tables import Device, Job, Replica, ReplicaFile, epoch_now
from shared.states import JobState, ReplicaState

# The loaded models of a device that is silent for longer than this do not count.
_GONE_SECONDS = 3600.0


@settled
def begin_removal(database: Database, node: str, model_id: str) -> bool:
    """Mark the replica as being removed, so that no further job is claimed for it.

    Return False if a job uses it or a preset of it on that node, or waits for one of them, or a device there has it
    loaded. A claim holds a share lock on the replica's row until its commit, so either the claim sees the mark or the
    removal sees the job.
    """
    with database.write() as session:
        row = _locked(session, node, model_id)
        if row is None or _needed(session, node, model_id) or model_id in loaded(session, node):
            return False
        row.state = ReplicaState.REMOVING
        row.generation += 1
        session.add(row)
        return True


@settled
def abandon_removals(database: Database, node: str) -> None:
    """Remove all marks on that node, on which one cleanup runs at a time. A presence scan must follow."""
    with database.write() as session:
        marked = update(Replica).where(col(Replica.node) == node, col(Replica.state) == ReplicaState.REMOVING)
        session.connection().execute(marked.values(state=ReplicaState.UNKNOWN))


@settled
def finish_removal(database: Database, node: str, model_id: str) -> None:
    """Record that the files were removed: the replica is missing, and its file rows are removed."""
    with database.write() as session:
        row = _locked(session, node, model_id)
        if row is None or row.state != ReplicaState.REMOVING:
            return
        row.state = ReplicaState.MISSING
        row.revision = None
        row.bytes = row.verified_bytes = row.expected_bytes = 0
        row.removed_source_bytes = 0
        row.missing_files = []
        row.faults = []
        row.prepared = []
        row.verified_at = None
        row.verified_full = False
        row.checked_at = clock.now()
        session.add(row)
        mine = (col(ReplicaFile.node) == node, col(ReplicaFile.model_id) == model_id)
        session.connection().execute(delete(ReplicaFile).where(*mine))


def under_way(session: Session, node: str) -> bool:
    """Return whether a cleanup runs on that node. Without one, marks are left over from a crash."""
    query = select(Job.id).where(Job.type == CLEANUP, Job.status == JobState.RUNNING, Job.node == node).limit(1)
    return session.exec(query).first() is not None


def loaded(session: Session, node: str) -> set[str]:
    """Return the models that devices of the node have loaded."""
    query = select(Device.warm).where(Device.node == node, epoch_now() - col(Device.seen_at) < _GONE_SECONDS)
    return {entry["model_id"] for warm in session.exec(query) for entry in warm}


def _needed(session: Session, node: str, model_id: str) -> bool:
    presets = select(Replica.model_id).where(Replica.node == node, Replica.requires == model_id)
    names = [model_id, *session.exec(presets)]
    every_model = col(Job.model_id).is_(None) & (col(Job.type) != CLEANUP)
    of_it = or_(col(Job.model_id).in_(names), every_model)
    running = (col(Job.status) == JobState.RUNNING, col(Job.node) == node, of_it)
    waiting = (
        col(Job.status) == JobState.QUEUED,
        col(Job.type).in_((GENERATION, BENCHMARK)),
        col(Job.model_id).in_(names),
    )
    return any(
        session.exec(select(Job.id).where(*where, col(Job.mock).is_(False)).limit(1)).first() is not None
        for where in (running, waiting)
    )


def _locked(session: Session, node: str, model_id: str) -> Replica | None:
    query = select(Replica).where(Replica.node == node, Replica.model_id == model_id).with_for_update()
    return session.exec(query).one_or_none()
