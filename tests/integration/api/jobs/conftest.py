"""What the tests of jobs share: a check that nothing was stored."""

from typing import Any

import pytest

from shared.database.engine import Database
from shared.jobs.reading import lists
from shared.settings import Settings


@pytest.fixture
def nothing_stored(database: Database, settings: Settings) -> Any:
    """Check after the test that there is no job in the database and no input in the store."""
    yield
    assert lists.page(database, limit=100).jobs == []
    inputs = settings.store_dir / "inputs"
    assert not inputs.exists() or list(inputs.iterdir()) == []
