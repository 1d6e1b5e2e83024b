"""The daily windows in which jobs of low priority start: the installation's, and those of keys that have their own.

The installation's window is a setting of the leading dispatcher, which stores it, so that all processes follow one. A
job that was moved to the front starts in spite of its window. Integrity checks and cleanups have no window: they keep
the installation healthy.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import literal, union_all
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlmodel import Session, col, select

from shared import daily_window
from shared.catalogue.job_types import CLEANUP, INTEGRITY_CHECK
from shared.daily_window import DailyWindow
from shared.database.engine import Database, hold, settled
from shared.database.tables import ApiKey, Installation
from shared.states import Priority

log = logging.getLogger("wanworks.windows")

NAME = "low_priority_window"
_LOCK = "windows"
_WITHOUT = frozenset({CLEANUP, INTEGRITY_CHECK})
_LOW = Priority.LOW.rank
# Built once, because every pass of the dispatcher and every claim of a low job reads them.
_OF_INSTALLATION: Any = select(literal("").label("owner"), col(Installation.value).label("window")).where(
    Installation.name == NAME, Installation.value != ""
)
_OF_KEYS: Any = select(col(ApiKey.id).label("owner"), col(ApiKey.low_priority_window).label("window")).where(
    col(ApiKey.low_priority_window).is_not(None)
)
_ALL = union_all(_OF_INSTALLATION, _OF_KEYS)


@dataclass(frozen=True)
class Windows:
    """The windows at one moment. Without an entry, jobs of low priority start at any time."""

    installation: DailyWindow | None = None
    of_keys: Mapping[str, DailyWindow] = field(default_factory=dict)  # by the key's id

    @property
    def is_empty(self) -> bool:
        """Return whether there is no window."""
        return self.installation is None and not self.of_keys

    def of(self, owner: str | None) -> DailyWindow | None:
        """Return the window of that owner's jobs of low priority; None: any time."""
        return self.of_keys.get(owner or "", self.installation)

    def closed(self, job_type: str, priority: int, owner: str | None, front_at: float | None, now: float) -> bool:
        """Return whether a job with these values may not start now, because its window is closed."""
        if priority != _LOW or front_at is not None or job_type in _WITHOUT:
            return False
        window = self.of(owner)
        return window is not None and not window.is_open(now)


def read(database: Database) -> Windows:
    """Return the windows. Raises DatabaseUnavailable."""
    with database.read() as session:
        return read_in(session)


def read_in(session: Session) -> Windows:
    """Return the windows as this transaction sees them."""
    installation, of_keys = None, {}
    for owner, text in session.connection().execute(_ALL):
        if owner:
            of_keys[owner] = _parsed(text)
        else:
            installation = _parsed(text)
    return Windows(installation, of_keys)


def read_for_claim(session: Session) -> Windows:
    """Return the windows, which do not change until this transaction ends."""
    hold(session, _LOCK, shared=True)
    return read_in(session)


def change(session: Session) -> None:
    """Wait for the claims that read the windows. Call it in the transaction that changes one."""
    hold(session, _LOCK)


@settled
def set_installation(database: Database, text: str) -> None:
    """Store the installation's window; an empty text is none. No claim that read the earlier one comes after this."""
    insert = sqlite_insert if database.is_sqlite else postgresql_insert
    with database.read() as session:
        row = session.get(Installation, NAME)
        if (row.value if row is not None else "") == text:
            return
    with database.write() as session:
        change(session)
        statement = insert(Installation).values(name=NAME, value=text)
        session.connection().execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={"value": statement.excluded.value})
        )


def _parsed(text: str) -> DailyWindow:
    """Return the window. One that this host cannot read counts as closed for all but one minute of the day."""
    try:
        return daily_window.parse(text)
    except ValueError as error:
        log.warning("jobs of low priority wait: %s", error)
        return daily_window.parse("00:00-00:01")
