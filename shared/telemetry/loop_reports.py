"""When each background loop last finished a pass, so that one that hangs is noticed. Only it uses its table."""

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
    """Notes that the loop has just finished a pass."""
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
    """Every loop that has reported and whose process has not shut down in good order."""
    query = select(LoopReport, epoch_now() - col(LoopReport.seen_at))
    with database.read() as session:
        return [
            SeenLoop(row.process, row.loop, row.node, row.every_seconds, silent)
            for row, silent in session.exec(query.order_by(col(LoopReport.process), col(LoopReport.loop)))
        ]


def dispatcher_heard(loops: Iterable[SeenLoop]) -> bool:
    """Whether a dispatcher that leads has finished a pass lately."""
    return any(loop.loop == DISPATCHER and loop.silent_seconds <= _DISPATCHER_SECONDS for loop in loops)


def forget_process(database: Database, process: str) -> None:
    """The process shuts down: its loops are not missed."""
    with database.write() as session:
        session.connection().execute(delete(LoopReport).where(col(LoopReport.process) == process))


def forget_node(session: Session, node: str) -> None:
    """A node was removed, and its loops with it."""
    session.connection().execute(delete(LoopReport).where(col(LoopReport.node) == node))
