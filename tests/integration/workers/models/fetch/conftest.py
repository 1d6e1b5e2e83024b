"""What the tests of downloads share: a real hub in its own process, and a plan for its model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.workers.models.fetch.hub_model import REPO, SIZES
from tests.support.models.fetching import plan_of
from tests.support.models.repos import make_repo
from tests.support.servers.faulty_hub import HubProcess
from workers.models.fetch.plan import FetchPlan


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    make_repo(root, REPO, SIZES)
    return root


@pytest.fixture(scope="module")
def _hub_of_the_module(served: Path) -> Iterator[HubProcess]:
    hub = HubProcess(served).start()
    yield hub
    hub.kill()


@pytest.fixture
def hub(_hub_of_the_module: HubProcess) -> HubProcess:
    _hub_of_the_module.fault()
    _hub_of_the_module.forget()
    return _hub_of_the_module


@pytest.fixture
def plan(hub: HubProcess, tmp_path: Path) -> FetchPlan:
    return plan_of(hub.url, REPO, tmp_path / "models")
