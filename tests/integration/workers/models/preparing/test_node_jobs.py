"""Downloads prepare what they fetched; copies are checked, repaired and cleaned up with the model they belong to."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shared import clock
from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Device
from shared.errors import Paused
from shared.insight import health
from shared.insight.health import ReplicaFacts
from shared.jobs import download_control, records
from shared.models import prepared, replica_files, replicas
from shared.settings import Settings
from shared.states import Phase, ReplicaState
from tests.integration.workers.generation.pipelines.test_prepared_parts import parts, same
from tests.support.jobs import DEMO
from tests.support.models.generating import CATALOGUE, snapshots
from tests.support.models.io_node import Node
from tests.support.models.prepared_models import own
from tests.support.servers.faulty_hub import HubProcess
from wanworks.requests import Quantization
from workers.attempts.heartbeat import Heartbeat
from workers.generation.pipelines.weights import loading
from workers.generation.pipelines.weights.loading import LoadedModel
from workers.models.fetch import fetcher
from workers.models.preparing import converter
from workers.models.preparing.converter import Converter

MODEL = "TI2V-5B"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    root = tmp_path_factory.mktemp("hub")
    own(root, MODEL)
    hub = HubProcess(root).start()
    yield hub
    hub.kill()


def node_with(settings: Settings, database: Database, **chosen: Any) -> Node:
    """Return a node that fits no coefficients of previews, which takes seconds, unless they are chosen."""
    return Node(settings.model_copy(update={"min_free_disk_mb": 0, "preview_seconds": 0.0, **chosen}), database)


def snapshot(node: Node) -> Path:
    found = replicas.snapshot_dir(node.models, DEMO.get(MODEL))
    assert found is not None
    return found


def rows(node: Node) -> dict[str, str | None]:
    """The recipes of the replica's files, by path."""
    return {
        path: row.recipe
        for path, row in replica_files.files(node.database, node.settings.node, MODEL, snapshot(node).name).items()
    }


def damage(place: Path) -> None:
    """Change the last byte, in another blob than before, so that the size and the link stay."""
    blob = place.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.unlink()
    blob.write_bytes(content)


def copy_of(node: Node, component: str) -> prepared.Copy:
    found = prepared.find(snapshot(node), component, "bf16")
    assert found is not None
    return found


def load(folder: Path, quantization: Quantization) -> LoadedModel:
    return loading.load(folder, CATALOGUE.get(MODEL), quantization, "none", torch.device("cpu"), lambda: None)


def test_a_download_prepares_what_it_fetched(
    settings: Settings, database: Database, hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_with(settings, database, hub_url=hub.url, prepare_downloads="bf16,int8")
    seen: list[tuple[Phase, float]] = []
    moved = Heartbeat.moved

    def noted(self: Heartbeat, phase: Phase, percent: float, step: int | None = None) -> None:
        seen.append((phase, percent))
        moved(self, phase, percent, step)

    monkeypatch.setattr(Heartbeat, "moved", noted)
    job = node.download(MODEL)
    assert job.status == "succeeded", job.error
    assert job.result is not None
    assert job.result["prepared"]["copies"] == ["text_encoder bf16", "transformer bf16", "transformer int8"]
    phases = list(dict.fromkeys(phase for phase, _ in seen))
    assert phases == [Phase.LISTING, Phase.FETCHING, Phase.PREPARING]
    percents = [percent for _, percent in seen]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    row = node.replica(MODEL)
    assert sorted(row.prepared) == sorted(job.result["prepared"]["copies"])
    assert row.state == ReplicaState.AVAILABLE
    assert row.expected_bytes == row.verified_bytes
    made = {recipe for recipe in rows(node).values() if recipe is not None}
    assert made == {prepared.recipe("bf16"), prepared.recipe("int8")}
    checked = node.check(MODEL)
    assert checked.status == "succeeded"
    assert node.replica(MODEL).expected_bytes == row.expected_bytes
    again = node.download(MODEL)
    assert again.result is not None
    assert (again.result["bytes_fetched"], again.result["prepared"]["copies"]) == (0, [])
    assert {recipe for recipe in rows(node).values() if recipe is not None} == made


@pytest.mark.parametrize(("kind", "copies"), [("cuda", True), ("cpu", False)])
def test_downloads_are_prepared_for_nodes_with_a_gpu(
    settings: Settings, database: Database, hub: HubProcess, kind: str, copies: bool
) -> None:
    node = node_with(settings, database, hub_url=hub.url)
    fields: dict[str, Any] = {"memory_mb": 80_000, "worker": "gpu-0@here", "pid": 1, "visible": "0", "warm": []}
    key = f"{node.settings.node}/0"
    nodes.register_device(
        database,
        Device(
            key=key, node=node.settings.node, index=0, kind=kind, uuid="u", name="n", seen_at=0.0,
            started_at=clock.now(), message_protocol=1, **fields,
        ),
    )  # fmt: skip
    job = node.download(MODEL)
    assert job.result is not None
    assert (job.result["prepared"] is not None) == copies


def test_a_disk_without_room_for_the_copies_is_said_before_the_first_byte(
    settings: Settings, database: Database, hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(path.stat().st_size for path in snapshots()[MODEL].rglob("*") if path.is_file())
    monkeypatch.setattr(fetcher, "free_bytes", lambda _: size + 100_000)
    plain = node_with(settings, database, hub_url=hub.url, prepare_downloads="none")
    node = node_with(settings, database, hub_url=hub.url, prepare_downloads="bf16")
    job = node.download(MODEL)
    assert (job.status, job.paused_by) == ("paused", "disk_full")
    assert "for copies of the weights" in str(job.error)
    assert (job.bytes_total or 0) - (job.bytes_done or 0) > 1.3 * size  # what must be free before it is resumed
    assert list(node.models.rglob("*.safetensors")) == []
    records.request_cancel(database, job.id)
    assert plain.download(MODEL).status == "succeeded"


@pytest.mark.slow
def test_a_download_that_cannot_be_prepared_serves_the_published_weights(
    settings: Settings, database: Database, hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "is_possible", lambda: False)
    job = node_with(settings, database, hub_url=hub.url, prepare_downloads="bf16").download(MODEL)
    assert job.status == "succeeded"
    assert job.result is not None
    assert "not installed" in job.result["prepared"]["error"]


@pytest.mark.slow
def test_the_job_prepares_a_model_that_is_here(settings: Settings, database: Database) -> None:
    node = node_with(settings, database)
    assert node.prepare(MODEL).error["code"] == "model_unavailable"  # type: ignore[index]
    own(node.models, MODEL)
    job = node.prepare(MODEL, "int8")
    assert job.status == "succeeded", job.error
    assert job.result is not None
    assert job.result["copies"] == ["text_encoder bf16", "transformer int8"]
    assert node.replica(MODEL).prepared == job.result["copies"]
    assert node.prepare(MODEL, "int8").result["bytes_written"] == 0  # type: ignore[index]


def test_a_broken_copy_is_prepared_again_without_the_hub(settings: Settings, database: Database) -> None:
    node = node_with(settings, database, hub_url="http://127.0.0.1:9")
    own(node.models, MODEL)
    node.scan()
    node.prepare(MODEL)
    path = copy_of(node, "transformer").files[0].path
    damage(snapshot(node) / path)
    found = node.check(MODEL)
    assert found.result is not None
    assert found.result["models"][MODEL]["faults"] == [{"path": path, "type": "checksum_mismatch"}]
    assert node.replica(MODEL).state == ReplicaState.CORRUPTED
    repaired = node.check(MODEL, repair=True)
    assert repaired.status == "succeeded", repaired.error
    assert repaired.result is not None
    assert repaired.result["models"][MODEL]["repaired"] == [path]
    assert node.replica(MODEL).state == ReplicaState.AVAILABLE
    same(load(snapshot(node), "bf16").pipeline.transformer, load(snapshots()[MODEL], "bf16").pipeline.transformer)


def du(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.slow
def test_published_weights_may_go_after_preparing(settings: Settings, database: Database, hub: HubProcess) -> None:
    both = node_with(settings, database, hub_url=hub.url, prepare_downloads="none")
    both.download(MODEL)
    before = du(both.models)
    node = node_with(settings, database, hub_url=hub.url, prepare_downloads="bf16", keep_sources=False)
    job = node.download(MODEL)
    assert job.status == "succeeded", job.error
    assert job.result is not None
    removed = job.result["prepared"]["source_bytes_removed"]
    weights = [path for name in ("text_encoder", "transformer") for path in prepared.weights(snapshot(node), name)]
    assert removed > 1_000_000
    assert not any((snapshot(node) / path).exists() for path in weights)
    assert du(node.models) < 0.75 * before
    row = node.replica(MODEL)
    assert (row.state, row.missing_files, row.removed_source_bytes) == (ReplicaState.AVAILABLE, [], removed)
    checked = node.check(MODEL)
    assert checked.result is not None
    assert checked.result["models"][MODEL] | {"verified_bytes": 0, "expected_bytes": 0} == {
        "integrity_score": 1.0, "verified_bytes": 0, "expected_bytes": 0, "faults": [], "repaired": [],
    }  # fmt: skip
    assert not set(weights) & set(rows(node))
    again = node.download(MODEL)
    assert again.result is not None
    assert again.result["bytes_fetched"] == 0
    assert node.prepare(MODEL, "int8").status == "succeeded"
    for quantization in ("bf16", "int8"):
        fresh, copied = load(snapshots()[MODEL], quantization), load(snapshot(node), quantization)  # type: ignore[arg-type]
        for one, other in zip(parts(fresh).values(), parts(copied).values(), strict=True):
            same(one, other)
    assert load(snapshot(node), "fp16").pipeline.transformer.dtype is torch.float16
    assert load(snapshot(node), "none").pipeline.transformer.dtype is torch.float32


def test_the_coefficients_of_previews_are_kept_and_fitted_again_if_damaged(
    settings: Settings, database: Database
) -> None:
    node = node_with(settings, database, preview_seconds=3.0)
    own(node.models, MODEL)
    job = node.prepare(MODEL)
    assert job.status == "succeeded", job.error
    assert job.result is not None
    assert job.result["copies"] == ["text_encoder bf16", "transformer bf16", "vae preview"]
    assert node.replica(MODEL).prepared == job.result["copies"]
    copy = prepared.find(snapshot(node), prepared.PREVIEWED, prepared.PREVIEW)
    assert copy is not None
    (file,) = copy.files
    assert rows(node)[file.path] == prepared.recipe("preview")
    damage(snapshot(node) / file.path)
    node.check(MODEL)
    assert [fault["path"] for fault in node.replica(MODEL).faults] == [file.path]
    repaired = node.check(MODEL, repair=True)
    assert repaired.status == "succeeded", repaired.error
    assert node.replica(MODEL).state == ReplicaState.AVAILABLE
    assert prepared.find(snapshot(node), prepared.PREVIEWED, prepared.PREVIEW) == copy, "the same bytes again"


@pytest.mark.slow
def test_a_broken_copy_without_published_weights_is_repaired_from_the_hub(
    settings: Settings, database: Database, hub: HubProcess
) -> None:
    node = node_with(settings, database, hub_url=hub.url, prepare_downloads="bf16", keep_sources=False)
    node.download(MODEL)
    removed = node.replica(MODEL).removed_source_bytes
    path = copy_of(node, "transformer").files[0].path
    damage(snapshot(node) / path)
    node.check(MODEL)
    row = node.replica(MODEL)
    assert row.state == ReplicaState.CORRUPTED
    faults = tuple(health.Fault(fault["path"], fault["type"]) for fault in row.faults)
    facts = ReplicaFacts(
        "here", ReplicaState.CORRUPTED, faults, (), True, removed_source_bytes=row.removed_source_bytes
    )
    assert "are downloaded again first" in health.health(health.ModelFacts(MODEL, (facts,))).repair_suggestions[0]
    assert row.removed_source_bytes == removed
    repaired = node.check(MODEL, repair=True)
    assert repaired.status == "succeeded", repaired.error
    assert repaired.result is not None
    assert repaired.result["models"][MODEL]["repaired"] == [path]
    assert node.replica(MODEL).state == ReplicaState.AVAILABLE
    node.scan()
    assert node.replica(MODEL).removed_source_bytes == removed
    assert not any((snapshot(node) / each).exists() for each in prepared.weights(snapshot(node), "transformer"))
    same(load(snapshot(node), "bf16").pipeline.transformer, load(snapshots()[MODEL], "bf16").pipeline.transformer)


@pytest.mark.slow
def test_a_lost_copy_without_published_weights_is_missing_and_repaired(
    settings: Settings, database: Database, hub: HubProcess
) -> None:
    node = node_with(settings, database, hub_url=hub.url, prepare_downloads="bf16", keep_sources=False)
    node.download(MODEL)
    shutil.rmtree(snapshot(node) / prepared.FOLDER)
    node.scan()
    assert node.replica(MODEL).state == ReplicaState.MISSING
    repaired = node.check(MODEL, repair=True)
    assert repaired.status == "succeeded", repaired.error
    node.scan()
    assert node.replica(MODEL).state == ReplicaState.AVAILABLE


def only_these_take_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let only the files in `folder` change the free space, which others on this machine write to as well.

    Return the free bytes now.
    """

    def used() -> int:
        return sum(
            path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
        )

    disk, before = shutil.disk_usage(folder), used()
    monkeypatch.setattr("shutil.disk_usage", lambda _: disk._replace(free=disk.free + before - used()))
    return disk.free


def test_a_cleanup_removes_copies_before_models(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_with(settings, database)
    own(node.models, MODEL)
    node.prepare(MODEL)
    for path in node.models.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (0, 0))
    node.scan()
    free = only_these_take_space(node.models, monkeypatch)
    size = sum(copy.bytes for copy in prepared.copies(snapshot(node)))
    done = node.clean(target_space_gb=(free + size // 2) / 1e9)
    assert [action["action_type"] for action in done["executed_actions"]] == ["remove_prepared"]
    assert done["executed_actions"][0]["freed_bytes"] >= size
    row = node.replica(MODEL)
    assert (row.state, row.prepared) == (ReplicaState.AVAILABLE, [])
    assert not any(recipe for recipe in rows(node).values())
    assert node.check(MODEL).status == "succeeded"
    node.prepare(MODEL)
    for path in node.models.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (0, 0))
    node.scan()
    assert [action["action_type"] for action in node.clean()["executed_actions"]] == ["remove_model"]
    assert list(node.models.rglob("*.safetensors")) == []


@pytest.mark.slow
def test_a_cleanup_keeps_copies_that_the_model_needs(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_with(settings, database, keep_sources=False)
    own(node.models, MODEL)
    node.prepare(MODEL)
    for path in node.models.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (0, 0))
    node.scan()
    free = only_these_take_space(node.models, monkeypatch)
    done = node.clean(target_space_gb=(free + 100_000) / 1e9)
    assert [action["action_type"] for action in done["executed_actions"]] == ["remove_model"]


def test_a_cancel_stops_a_preparation_within_a_file(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child waits for ever in the middle of a file when the job is cancelled."""
    node = node_with(settings, database)
    own(node.models, MODEL)
    heartbeats: list[Heartbeat] = []
    enter, convert = Heartbeat.__enter__, Converter.convert

    def entered(self: Heartbeat) -> Heartbeat:
        heartbeats.append(self)
        return enter(self)

    def endless(self: Converter, task: dict[str, str], report: Any, check: Any) -> tuple[int, str]:
        os.mkfifo(node.models / "endless")

        def cancelled() -> None:
            if self.pid is not None:
                heartbeats[0].cancel()
            check()

        return convert(self, {**task, "source": str(node.models / "endless")}, report, cancelled)

    monkeypatch.setattr(Heartbeat, "__enter__", entered)
    monkeypatch.setattr(Converter, "convert", endless)
    assert node.prepare(MODEL).status == "cancelled"
    assert list(node.models.rglob("*.incomplete")) == []


def test_a_download_paused_while_it_prepares_continues_there(
    settings: Settings, database: Database, hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is paused in the middle of the third file; the two before it are kept."""
    node = node_with(settings, database, hub_url=hub.url, prepare_downloads="bf16")
    convert, count = Converter.convert, 0
    heartbeats: list[Heartbeat] = []
    enter = Heartbeat.__enter__

    def entered(self: Heartbeat) -> Heartbeat:
        heartbeats.append(self)
        return enter(self)

    def third_is_endless(self: Converter, task: dict[str, str], report: Any, check: Any) -> tuple[int, str]:
        nonlocal count
        count += 1
        if count < 3:
            return convert(self, task, report, check)
        os.mkfifo(node.models / "endless")
        download_control.pause(database, heartbeats[0]._job_id)
        heartbeats[0]._stop = Paused
        return convert(self, {**task, "source": str(node.models / "endless")}, report, check)

    monkeypatch.setattr(Heartbeat, "__enter__", entered)
    monkeypatch.setattr(Converter, "convert", third_is_endless)
    job = node.download(MODEL)
    assert (job.status, job.paused_by) == ("paused", "owner")
    assert node.replica(MODEL).state == ReplicaState.AVAILABLE
    kept = {path: path.stat().st_ino for path in (snapshot(node) / "prepared").rglob("*.safetensors")}
    assert len(kept) == 2
    monkeypatch.undo()
    download_control.resume(database, job.id)
    ended = node.run(job)
    assert ended.status == "succeeded", ended.error
    assert ended.result is not None
    assert ended.result["bytes_fetched"] == 0
    assert {path: path.stat().st_ino for path in kept} == kept
    assert node.replica(MODEL).prepared == ["text_encoder bf16", "transformer bf16"]
