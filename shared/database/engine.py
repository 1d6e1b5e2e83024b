"""The database: connections, transactions and migrations, with the same interface for SQLite and PostgreSQL.

SQLite writes with ``BEGIN IMMEDIATE``: a deferred transaction that reads and then writes fails under load instead of
waiting. Every commit is on disk before it returns (``synchronous=FULL``).
"""

import selectors
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session

from shared.database import sqlite_plans
from shared.errors import DatabaseUnavailable, OutcomeUnknown, StoreFull

_BUSY_TIMEOUT_SECONDS = 15
_CUT_OFF_SECONDS = 20  # a connection without a reply for this long counts as broken
_ASK_AFTER_SECONDS = 0.5  # the server is asked whether a connection that was not used for this long still works
_READ_ONLY = "25006"  # PostgreSQL's read_only_sql_transaction
# How the server drops a disconnected client, so that its locks do not block others.
_SERVER_SIDE = {
    "idle_in_transaction_session_timeout": 60_000,
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": _CUT_OFF_SECONDS * 1000,
}
# Delays before each repetition of a write whose commit was not answered: 5 s in total, enough for a server to restart
# or fail over.
_REPEAT_AFTER_SECONDS = (0.05, 0.2, 0.5, 1.0, 1.5, 1.75)
_NO_TABLES = "The database has no tables yet: its migrations have not run."
# PostgreSQL advisory lock of migrations: any fixed number; this one spells "wanworks".
_MIGRATION_LOCK = 0x77616E776F726B73
_MIGRATION_WAIT_SECONDS = 120.0
_MIGRATION_POLL_SECONDS = 0.1


P = ParamSpec("P")
R = TypeVar("R")

_repeating: ContextVar[bool] = ContextVar("repeating", default=False)


def settled(write: Callable[P, R]) -> Callable[P, R]:
    """Decorate a write so that, if its commit is not answered, it is called again until the outcome is known.

    The function must recognise what its first call may have written: by the row itself (its end, its attempt) or, if
    the row does not show it, by `is_repetition`. Raises OutcomeUnknown if the database stays unavailable for 5 s.
    """

    @wraps(write)
    def settle(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return write(*args, **kwargs)
        except OutcomeUnknown as error:
            unknown = error
        token = _repeating.set(True)
        try:
            for pause in _REPEAT_AFTER_SECONDS:
                time.sleep(pause)
                try:
                    return write(*args, **kwargs)
                except (DatabaseUnavailable, StoreFull):  # the repeated call failed; the first one may have succeeded
                    continue
            raise unknown
        finally:
            _repeating.reset(token)

    return settle


def is_repetition() -> bool:
    """Return whether the current write repeats one whose outcome is unknown."""
    return _repeating.get()


def hold(session: Session, name: str, *, shared: bool = False) -> None:
    """Hold a named lock until the transaction ends, so that no other transaction writes between its reads and writes.

    `shared`: others may hold it shared at the same time. On SQLite only one transaction writes at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        session.connection().execute(select(lock(func.hashtextextended(name, 0))))


class Database:
    """One engine. `read()` and `write()` yield sessions, and raise DatabaseUnavailable if it cannot be reached."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        # PostgreSQL's statements see what was committed before each of them, within a transaction as without one; so a
        # read begins and ends none, which would be two more round trips.
        self._reading = self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def read(self, *, snapshot: bool = False) -> Iterator[Session]:
        """Yield a session that only reads. `snapshot`: all its statements see the rows as of the first statement.

        On SQLite they always do.
        """
        with _translated(), Session(self.engine if snapshot else self._reading, expire_on_commit=False) as session:
            if snapshot and not self.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session in one transaction: committed when the block ends, rolled back when it raises.

        Raises OutcomeUnknown if the commit was sent and not answered. After any other error nothing was written.
        """
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
            session.connection(execution_options={"wanworks_write": True})
            try:
                yield session
            except BaseException:
                session.rollback()
                raise
            session.flush()  # an error here means that nothing was committed
            try:
                session.commit()
            except DBAPIError as error:
                # A connection returned to the pool could keep the transaction open, and hold SQLite's only lock.
                session.invalidate()
                if _is_disk_full(error):
                    raise
                raise OutcomeUnknown() from error

    def close(self) -> None:
        self.engine.dispose()


def migrate(url: str, revision: str = "head") -> None:
    """Migrate the schema to `revision`. Several processes may call it at once. Raises DatabaseUnavailable."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    database = Database(url)
    deadline = time.monotonic() + _MIGRATION_WAIT_SECONDS
    try:
        while True:
            try:
                _migrate(database, config, revision)
                return
            except DatabaseUnavailable as error:
                # Another process holds SQLite's write lock for its migration, which may take long.
                if "locked" not in str(error.__cause__) or time.monotonic() > deadline:
                    raise
    finally:
        database.close()


def _migrate(database: Database, config: Any, revision: str) -> None:
    from alembic import command

    with _translated(), database.engine.connect() as connection:
        # Each transaction takes SQLite's write lock when it begins: one that has read cannot wait for it.
        connection.execution_options(wanworks_write=True)
        if not database.is_sqlite:
            _wait_for_migrations(connection)
        config.attributes["connection"] = connection
        if revision == "base":
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)
        if database.is_sqlite:
            sqlite_plans.settle(connection)
        connection.commit()
        if not database.is_sqlite:
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})")
            connection.commit()


def _wait_for_migrations(connection: Connection) -> None:
    """Take the lock of migrations.

    It polls, because a concurrent index build would wait for a statement that waits for the lock.
    """
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_MIGRATION_LOCK})").scalar():
        connection.commit()
        time.sleep(_MIGRATION_POLL_SECONDS)
    connection.commit()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        if _is_disk_full(error):
            raise StoreFull() from error
        if "no such table" in str(error):
            raise DatabaseUnavailable(_NO_TABLES) from error
        raise DatabaseUnavailable() from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailable() from error
        if type(error.orig).__name__ == "UndefinedTable":
            raise DatabaseUnavailable(_NO_TABLES) from error
        raise


def _is_disk_full(error: Exception) -> bool:
    return "disk is full" in str(error) or "No space left" in str(error)


def _sqlite_engine(url: str) -> Engine:
    path = make_url(url).database
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions itself
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        if connection.get_execution_options().get("wanworks_write"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # may fail, and its error has to be translated
        else:
            connection.connection.driver_connection.execute("BEGIN")

    return engine


def _has_news(socket: int) -> bool:
    """Return whether the server has sent something unasked: most often that it ends the connection."""
    with selectors.PollSelector() as selector:
        selector.register(socket, selectors.EVENT_READ)
        return bool(selector.select(0))


def _postgresql_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        pool_size=8,
        max_overflow=24,
        pool_timeout=10,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            # Keepalives are not sent while data is unacknowledged. Without this, a statement that the network has lost
            # hangs for 15 minutes.
            "tcp_user_timeout": _CUT_OFF_SECONDS * 1000,
            "application_name": "wanworks",
        },
    )

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        # Use SET, because a pooler may refuse these in the start-up packet.
        connection.autocommit = True
        connection.execute("; ".join(f"SET {name} = {value}" for name, value in _SERVER_SIDE.items()))
        connection.autocommit = False

    @event.listens_for(engine, "checkin")
    def _on_checkin(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _on_checkout(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        # As `pool_pre_ping` does, but that asks before every use, which doubles the round trips of a short read.
        idle_seconds = time.monotonic() - record.info.get("used_at", float("inf"))
        try:
            if idle_seconds > _ASK_AFTER_SECONDS or _has_news(connection.pgconn.socket):
                engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error:
            raise InvalidatePoolError() from None

    @event.listens_for(engine, "handle_error")
    def _on_error(context: Any) -> None:
        # The server has become a standby: drop its connections, so that new ones find the primary.
        if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
            context.is_disconnect = True

    return engine
