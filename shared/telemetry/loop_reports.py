"""When each background loop last finished a pass, to detect hanging loops. Sole reader and writer of `loop_reports`."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, select

from shared.database.engine import Database
from shared.database.tables import LoopReport, epoch_now

DISPATCHER = "dispatcher"  # the loop of a dispatcher, reported after each pass in which it led
_DISPATCHER_SECONDS = 15.0


@dataclass(frozen=True)
class SeenLoop:
    """A loop, and how long ago it finished a pass, in seconds by the database's clock."""

    process: str
    loop: str
    node: str
    every_seconds: float
    silent_seconds: float


def record(database: Database, process: str, node: str, loop: str, every_seconds: float) -> None:
    """Record that the loop has just finished a pass."""
    row = {"process": process, "loop": loop, "node": node, "every_seconds": every_seconds, "seen_at": epoch_now()}
    insert = sqlite_insert if database.is_sqlite else postgresql_insert
    with database.write() as session:
        session.connection().execute(
            insert(LoopReport)
            .values(row)
            .on_conflict_do_update(
                index_elements=["process", "loop"],
                set_={"node": node, "every_seconds": every_seconds, "seen_at": epoch_now()},
            )
        )


def seen(database: Database) -> list[SeenLoop]:
    """Return the loops that have reported and whose process has not shut down regularly."""
    query = select(LoopReport, epoch_now() - col(LoopReport.seen_at))
    with database.read() as session:
        return [
            SeenLoop(row.process, row.loop, row.node, row.every_seconds, silent)
            for row, silent in session.exec(query.order_by(col(LoopReport.process), col(LoopReport.loop)))
        ]


def dispatcher_heard(loops: Iterable[SeenLoop]) -> bool:
    """Return whether a leading dispatcher has finished a pass recently."""
    return any(loop.loop == DISPATCHER and loop.silent_seconds <= _DISPATCHER_SECONDS for loop in loops)


def forget_process(database: Database, process: str) -> None:
    """Remove the reports of a process that shuts down."""
    with database.write() as session:
        session.connection().execute(delete(LoopReport).where(col(LoopReport.process) == process))


def forget_node(session: Session, node: str) -> None:
    """Remove the reports of a removed node."""
    session.connection().execute(delete(LoopReport).where(col(LoopReport.node) == node))
