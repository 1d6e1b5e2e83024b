"""What the tests of access share: a watcher of the dashboard, and keys."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.jobs.ids import new_id
from shared.states import Scope
from tests.conftest import WebProcess
from tests.integration.api.access.scopes import READ, SUBMIT
from tests.integration.api.dashboard.test_feed import Dashboard


@pytest.fixture
def watch(web: WebProcess) -> Iterator[Callable[[str | None], Dashboard]]:
    opened: list[Dashboard] = []

    def start(secret: str | None) -> Dashboard:
        header = {"Authorization": f"Bearer {secret}"} if secret is not None else {}
        opened.append(Dashboard(web, additional_headers=header))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def key(database: Database) -> Callable[..., tuple[str, dict[str, str]]]:
    """Return a new key's id and the header with the key."""

    def make(*scopes: Scope, **limits: Any) -> tuple[str, dict[str, str]]:
        row, secret = keys.make(database, f"k{new_id()}", scopes or (READ, SUBMIT), Limits(**limits))
        return row.id, {"Authorization": f"Bearer {secret}"}

    return make
