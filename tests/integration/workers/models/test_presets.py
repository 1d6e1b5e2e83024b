"""The files of presets: their base's are fetched, checked and counted once, and kept as long as an entry uses them."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.jobs import accepting, attempts, dispatch
from shared.management import cleanup_facts
from shared.models import removals, replicas
from shared.settings import Settings
from tests.conftest import both_databases
from tests.support.jobs import CLAIMANT, DEMO, new_job
from tests.support.models.io_node import WEIGHTS, Node, files, weights
from tests.support.models.repos import make_repo
from tests.support.servers.faulty_hub import HubProcess
from tests.support.uses import used

pytestmark = both_databases

PRESET, BASE, OTHER = "T2V-A14B-Lightning", "T2V-A14B", "I2V-A14B-Lightning"
LORA = DEMO.get(PRESET).lora
assert LORA is not None


def publish(root: Path) -> None:
    """Write the repositories of the base and of the LoRAs of both presets."""
    make_repo(root, DEMO.get(BASE).repo, files())
    others = DEMO.get(OTHER).lora
    assert LORA is not None
    assert others is not None
    content: dict[str, bytes | int] = {path: weights(20_000) for path in (*LORA.paths, *others.paths)}
    make_repo(root, LORA.repo, {**content, "README.md": b"read me"})


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    publish(tmp_path / "hub")
    hub = HubProcess(tmp_path / "hub").start()
    yield hub
    hub.kill()


@pytest.fixture
def node(settings: Settings, database: Database) -> Node:
    return Node(settings, database)


def ready(node: Node) -> frozenset[str]:
    return replicas.ready(node.database).get(node.settings.node, frozenset())


def test_a_download_fetches_the_base_and_the_presets_own_files(node: Node, hub: HubProcess) -> None:
    node = Node(node.settings.model_copy(update={"hub_url": hub.url}), node.database)
    job = node.download(PRESET)
    assert job.status == "succeeded", job.error
    assert job.result is not None
    entry = DEMO.get(PRESET)
    base, own = replicas.snapshot_dir(node.models, entry), replicas.lora_dir(node.models, entry)
    assert base is not None
    assert own is not None
    assert LORA is not None
    assert sorted(str(path.relative_to(own)) for path in own.rglob("*") if path.is_file()) == sorted(LORA.paths)
    assert ready(node) == {PRESET, BASE}
    assert node.replica(PRESET).bytes == sum((own / path).stat().st_size for path in LORA.paths)
    assert job.result["revision"] == own.name
    assert job.result["bytes_total"] > node.replica(BASE).bytes
    assert 0 <= job.result["bytes_total"] - job.result["bytes_fetched"] < 100, "one file of the base has two names"

    again = node.download(PRESET)
    assert again.result is not None
    assert again.result["bytes_total"] == node.replica(PRESET).bytes, "the base is complete"
    assert again.result["bytes_fetched"] == 0


def test_a_repository_without_the_file_is_named(node: Node, hub: HubProcess, tmp_path: Path) -> None:
    assert LORA is not None
    make_repo(tmp_path / "hub", LORA.repo, {"README.md": b"moved"})
    node = Node(node.settings.model_copy(update={"hub_url": hub.url}), node.database)
    job = node.download(PRESET)
    assert job.error is not None
    assert job.error["code"] == "hub_refused"
    assert LORA.paths[0] in job.error["message"]
    assert PRESET not in ready(node)


def test_a_preset_serves_only_while_its_base_does(node: Node, database: Database) -> None:
    publish(node.models)
    node.scan()
    assert ready(node) == {PRESET, BASE}, "the base of the other preset is missing"
    (outcome,) = accepting.accept(database, [new_job(model_id=PRESET, request={"steps": None})])
    assert isinstance(outcome, accepting.Accepted)
    here = CLAIMANT.__class__(**{**CLAIMANT.__dict__, "node": node.settings.node})
    dispatch.mark_dispatched(database, [(outcome.job.id, here.device_key)])

    base = replicas.snapshot_dir(node.models, DEMO.get(BASE))
    assert base is not None
    kept = (base / WEIGHTS).resolve().read_bytes()
    (base / WEIGHTS).resolve().write_bytes(kept[:-1] + b"x")
    checked = node.check(PRESET)
    assert checked.result is not None
    assert set(checked.result["models"]) == {BASE, PRESET}
    assert not ready(node)
    assert replicas.corrupted(database) == {BASE, PRESET}
    assert attempts.claim(database, outcome.job.id, here, 60.0) is None

    (base / WEIGHTS).resolve().write_bytes(kept)
    node.check(PRESET)
    assert ready(node) == {PRESET, BASE}
    assert not removals.begin_removal(database, node.settings.node, BASE), "a job of the preset waits"
    assert attempts.claim(database, outcome.job.id, here, 60.0) is not None


def test_a_broken_lora_takes_out_the_preset_alone_and_is_repaired(node: Node, hub: HubProcess) -> None:
    node = Node(node.settings.model_copy(update={"hub_url": hub.url}), node.database)
    node.download(PRESET)
    assert LORA is not None
    own = replicas.lora_dir(node.models, DEMO.get(PRESET))
    assert own is not None
    assert LORA.low is not None
    broken = (own / LORA.low).resolve()
    broken.write_bytes(os.urandom(broken.stat().st_size))
    node.check(PRESET)
    assert ready(node) == {BASE}
    job = node.check(PRESET, repair=True)
    assert job.result is not None
    assert job.result["models"][PRESET]["repaired"] == [LORA.low]
    assert ready(node) == {BASE, PRESET}


def aged(node: Node, days: float) -> None:
    moment = (clock.now() - timedelta(days=days)).timestamp()
    for path in node.models.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (moment, moment))
    node.scan()
    disk = os.statvfs(node.models)
    size = disk.f_frsize / 1e6
    nodes.node_beat(node.database, node.settings.node, disk.f_blocks * size, disk.f_bavail * size)


def test_cleanup_removes_shared_files_only_when_no_entry_uses_them(node: Node, database: Database) -> None:
    publish(node.models)
    aged(node, 90)
    used(database, BASE, days_ago=60)
    used(database, PRESET, days_ago=1)
    kept = node.clean()
    assert not kept["executed_actions"], "the preset was used, so its base and its LoRA stay"
    assert ready(node) == {PRESET, BASE}

    gone = node.clean(keep_recent_days=0)
    assert {action["model_id"] for action in gone["executed_actions"]} >= {BASE}
    assert not ready(node)
    assert replicas.snapshot_dir(node.models, DEMO.get(BASE)) is None
    assert replicas.lora_dir(node.models, DEMO.get(PRESET)) is None


def test_an_unused_preset_goes_without_its_base(node: Node, database: Database) -> None:
    publish(node.models)
    aged(node, 90)
    used(database, BASE, days_ago=1)
    facts = cleanup_facts.gather(database, DEMO, node.settings.node, clock.now())
    assert sum(blob.bytes for blob in facts.blobs) < 300_000, "the base's files are counted once"
    result = node.clean()
    (action,) = result["executed_actions"]
    assert action["action_type"] == "remove_model"
    assert action["model_id"] in (PRESET, OTHER)
    assert ready(node) == {BASE}
    assert replicas.lora_dir(node.models, DEMO.get(PRESET)) is None
