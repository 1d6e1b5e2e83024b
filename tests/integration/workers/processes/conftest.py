"""What the tests of the processes share: a receiver of webhooks."""

from collections.abc import Iterator

import pytest

from tests.integration.scheduler.alerts.test_alerts import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
