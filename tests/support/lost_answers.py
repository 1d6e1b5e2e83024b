"""Commits that succeed without a response, as when PostgreSQL fails over at that moment."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from shared.database import engine


@contextmanager
def lost_answers(count: int = 1) -> Iterator[list[int]]:
    """Make the next `count` commits succeed and lose their responses. Yields a list with one entry per commit."""
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
