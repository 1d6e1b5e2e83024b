"""What the tests of the database share: one that loses answers."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from shared.database.engine import Database
from tests.integration.shared.database.losing_commits import Losing
from tests.support.servers.commit_cutter import CommitCutter


@pytest.fixture
def losing(database: Database) -> Iterator[Losing]:
    """The test's database; on PostgreSQL behind a proxy that cuts the line."""
    if database.is_sqlite:
        yield Losing(database, None)
        return
    url = urlsplit(database.url)
    folder = parse_qs(url.query)["host"][0]
    cutter = CommitCutter(str(next(Path(folder).glob(".s.PGSQL.*[0-9]")))).start()
    behind = Database(cutter.url(url.path.lstrip("/")))
    yield Losing(behind, cutter)
    behind.close()
    cutter.stop()
