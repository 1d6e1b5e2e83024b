"""What the tests of jobs share: a pair of writers."""

import pytest

from shared.database.engine import Database
from tests.integration.shared.jobs.races.racing import Race


@pytest.fixture
def race(database: Database) -> Race:
    return Race(database)
