"""Commits that happen and are not answered, as when PostgreSQL hands over to its standby in that very moment."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from shared.database import engine


@contextmanager
def lost_answers(count: int = 1) -> Iterator[list[int]]:
    """The next `count` commits are made and their answers lost. Yields a list of which one entry is added for each."""
    lost: list[int] = []

    class Losing(Session):
        def commit(self) -> None:
            super().commit()
            if len(lost) < count:
                lost.append(len(lost))
                raise OperationalError("COMMIT", {}, Exception("the connection was lost"))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "Session", Losing)
        yield lost
    assert len(lost) == count, "fewer commits were made"
