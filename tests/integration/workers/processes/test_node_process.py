"""The reports of an io worker's main process, in this process, on a model storage that hangs or fails."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Node
from shared.models import replicas
from shared.settings import Settings
from shared.telemetry import loop_reports
from shared.telemetry.loops import LoopReporter
from tests.conftest import both_databases
from tests.support.jobs import UNCOUNTED
from tests.support.models.io_node import make_model
from tests.support.stack import wait_for
from workers.processes import process
from workers.processes.node_process import NodeWatch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NodeWatch]]:
    """Makes this process the io worker of ``here``."""
    started: list[NodeWatch] = []

    def become(settings: Settings, database: Database) -> NodeWatch:
        quick = settings.model_copy(update={"device_silence_seconds": 0.6, "presence_seconds": 0.1})
        known: dict[str, Any] = {
            "settings": quick,
            "database": database,
            "meters": UNCOUNTED,
            "reporter": LoopReporter(database, "io@here", "here"),
        }
        for name, value in known.items():
            monkeypatch.setattr(process, name, lambda value=value: value)
        started.append(NodeWatch())
        return started[-1]

    yield become
    for one in started:
        one.stop()


def here(database: Database) -> tuple[Node, float]:
    found = [(node, silent) for node, silent in nodes.nodes(database) if node.name == "here"]
    return found[0] if found else (Node(name="here", version="", seen_at=0.0), float("inf"))


def beats(database: Database, count: int) -> bool:
    """Waits for that many heartbeats."""
    for _ in range(count):
        last = here(database)[0].seen_at
        wait_for(lambda last=last: here(database)[0].seen_at > last, 10, "for a heartbeat")  # type: ignore[misc]
    return True


@both_databases
def test_a_node_whose_model_storage_hangs_still_sends_heartbeats(
    settings: Settings, database: Database, watch: Callable[..., NodeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a model cannot be read: as on a network disk whose server has gone, the call never returns."""
    make_model(settings.models_dir)
    hangs, let_go, scandir = threading.Event(), threading.Event(), os.scandir

    def hanging(path: Any = ".") -> Any:
        if threading.current_thread().name == "model-storage":
            hangs.set()
            let_go.wait(30)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", hanging)
    one = watch(settings, database)
    one.start()
    try:
        assert hangs.wait(10)
        assert beats(database, 4)
        node, silent = here(database)
        assert silent < 5
        assert node.disk_total_mb is not None, "what was measured before it hung"
        assert {seen.loop for seen in loop_reports.seen(database)} == {"node-heartbeat"}, "the other one is missed"
    finally:
        let_go.set()


def test_a_disk_that_hangs_from_the_first_call_leaves_the_figures_unknown(
    settings: Settings, database: Database, watch: Callable[..., NodeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: let_go.wait(30))
    watch(settings, database).start()
    try:
        assert beats(database, 3)
        assert (here(database)[0].disk_total_mb, here(database)[0].disk_free_mb) == (None, None)
    finally:
        let_go.set()


def test_no_error_of_a_scan_ends_it(
    settings: Settings, database: Database, watch: Callable[..., NodeWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([OSError("gone"), RuntimeError("a bug"), UnicodeError("a name")])
    scans: list[int] = []

    def scan(*_: Any) -> None:
        if (error := next(errors, None)) is not None:
            raise error
        scans.append(1)

    monkeypatch.setattr("workers.models.presence.scan", scan)
    watch(settings, database).start()
    wait_for(lambda: len(scans) >= 3, 10, "for scans")


@pytest.mark.parametrize("error", [PermissionError("a partial file"), OSError("read-only file system")])
def test_a_partial_file_that_cannot_be_removed_hides_no_model(
    settings: Settings,
    database: Database,
    watch: Callable[..., NodeWatch],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
) -> None:
    make_model(settings.models_dir)

    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr("workers.models.presence.drop_cancelled_partials", refuse)
    watch(settings, database).start()
    wait_for(lambda: replicas.ready(database).get("here"), 10, "for the node's models")


def test_a_stopped_node_sends_no_heartbeats(
    settings: Settings, database: Database, watch: Callable[..., NodeWatch]
) -> None:
    one = watch(settings, database)
    one.start()
    beats(database, 1)
    one.stop()
    assert here(database)[0].seen_at == 0.0
    assert not one.heartbeat.is_alive()
