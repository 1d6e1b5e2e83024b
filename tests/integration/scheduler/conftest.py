"""What the tests of the scheduler share: a dispatcher with two devices."""

import pytest

from shared.database.engine import Database
from shared.settings import Settings
from tests.integration.scheduler.queued_jobs import Sent
from tests.support.jobs import DEMO, hold
from tests.support.models import library


@pytest.fixture
def sent(settings: Settings, database: Database) -> Sent:
    """Two devices on a node that holds every model."""
    for index in range(2):
        library.device(database, on="n", index=index, kind="cpu")
    hold(database, *DEMO.model_ids)
    return Sent(settings, database)
