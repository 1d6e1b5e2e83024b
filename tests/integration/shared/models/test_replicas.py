"""A presence scan follows the model's own index files and says what is missing."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.catalogue import models as catalogue
from shared.database.engine import Database
from shared.models import replicas
from shared.states import ReplicaState
from tests.conftest import both_databases
from tests.support.jobs import DEMO


@pytest.fixture
def models(demo_models: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo_models, tmp_path / "models", symlinks=True)
    return tmp_path / "models"


def snapshot(models: Path, model_id: str = "T2V-A14B") -> Path:
    found = replicas.snapshot_dir(models, DEMO.get(model_id))
    assert found is not None
    return found


@pytest.mark.parametrize("model_id", DEMO.model_ids)
def test_a_whole_model_is_available(models: Path, model_id: str) -> None:
    presence = replicas.scan(models, DEMO.get(model_id))
    assert (presence.state, presence.missing_files) == (ReplicaState.AVAILABLE, ())
    folder = replicas.own_dir(models, DEMO.get(model_id))
    assert folder is not None
    assert presence.revision == folder.name
    assert presence.bytes > (100_000 if DEMO.get(model_id).lora is not None else 1_000_000)


def test_nothing_there_is_missing(tmp_path: Path) -> None:
    assert replicas.scan(tmp_path, DEMO.get("T2V-A14B")).state == ReplicaState.MISSING


def test_every_file_of_the_snapshot_is_looked_for(models: Path) -> None:
    """Whichever weight, config or tokenizer file is taken away, the scan names it."""
    folder = snapshot(models)
    for file in sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file()):
        name = str(file.relative_to(folder))
        if not name.endswith((".safetensors", "config.json", "model_index.json", "tokenizer.json")):
            continue
        aside = file.with_name(file.name + ".aside")
        file.rename(aside)
        presence = replicas.scan(models, DEMO.get("T2V-A14B"))
        aside.rename(file)
        assert presence.state == ReplicaState.MISSING, name
        assert name in presence.missing_files


def test_an_index_that_cannot_be_read_is_corruption(models: Path) -> None:
    index = snapshot(models) / "model_index.json"
    index.unlink()
    index.write_text("{")
    presence = replicas.scan(models, DEMO.get("T2V-A14B"))
    assert (presence.state, presence.missing_files) == (ReplicaState.CORRUPTED, ("model_index.json",))


@both_databases
def test_what_a_node_holds_is_recorded_and_told_apart(models: Path, database: Database) -> None:
    found = {entry.model_id: replicas.scan(models, entry) for entry in DEMO.entries}
    assert replicas.record(database, "one", DEMO, found) is True
    assert replicas.record(database, "one", DEMO, found) is False
    nothing = {entry.model_id: replicas.scan(models / "none", entry) for entry in DEMO.entries}
    replicas.record(database, "two", DEMO, nothing)
    assert replicas.ready(database) == {"one": frozenset(DEMO.model_ids)}
    fewer = catalogue.Catalogue(name="fewer", entries=DEMO.entries[:1])
    replicas.record(database, "one", fewer, {"T2V-A14B": found["T2V-A14B"]})
    assert replicas.ready(database, ["one"]) == {"one": frozenset({"T2V-A14B"})}


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 300\n"


def weights(folder: Path) -> str:
    return sorted(str(path.relative_to(folder)) for path in folder.glob("transformer/*.safetensors"))[0]


def replaced(folder: Path, name: str, content: bytes) -> None:
    """A plain file in the place of the snapshot's link, so that no blob is touched."""
    (folder / name).unlink()
    (folder / name).write_bytes(content)


def scanned(models: Path) -> tuple[ReplicaState, tuple[str, ...]]:
    presence = replicas.scan(models, DEMO.get("T2V-A14B"))
    return presence.state, presence.missing_files


@pytest.mark.parametrize(
    "content", [POINTER, POINTER.replace(b"git-lfs", b"hawser"), b""], ids=["lfs", "hawser", "empty"]
)
@pytest.mark.parametrize("name", ["weights", "model_index.json", "vae/config.json", "tokenizer/tokenizer.json"])
def test_a_file_that_was_never_fetched_is_missing(models: Path, name: str, content: bytes) -> None:
    folder = snapshot(models)
    name = weights(folder) if name == "weights" else name
    replaced(folder, name, content)
    assert scanned(models) == (ReplicaState.MISSING, (name,))


def test_an_index_of_shards_that_was_never_fetched_is_missing(models: Path) -> None:
    folder = snapshot(models)
    (index,) = folder.glob("transformer/*.index.json")
    replaced(folder, f"transformer/{index.name}", POINTER)
    assert scanned(models) == (ReplicaState.MISSING, (f"transformer/{index.name}",))
    replaced(folder, f"transformer/{index.name}", b"{}")
    index.unlink()
    index.symlink_to("../../../blobs/gone")
    assert scanned(models) == (ReplicaState.MISSING, (f"transformer/{index.name}",))


@pytest.mark.parametrize("kept", [-1, 5000, 4, 30], ids=["last-byte", "half", "no-header", "half-header"])
def test_weights_that_are_cut_off_are_corrupted(models: Path, kept: int) -> None:
    folder = snapshot(models)
    name = weights(folder)
    replaced(folder, name, (folder / name).read_bytes()[:kept])
    assert scanned(models) == (ReplicaState.CORRUPTED, (name,))
    whole = snapshot(models) / name
    whole.unlink()
    whole.symlink_to("../../../blobs/gone")
    assert scanned(models) == (ReplicaState.MISSING, (name,))


def storage(models: Path) -> Path:
    return models / "models--wanworks-demo--T2V-A14B"


def ref(models: Path) -> Path:
    return storage(models) / "refs" / "main"


def whole(models: Path, revision: str) -> bool:
    presence = replicas.scan(models, DEMO.get("T2V-A14B"))
    return (presence.state, presence.revision) == (ReplicaState.AVAILABLE, revision)


@pytest.mark.parametrize("change", [
    lambda models: ref(models).unlink(),
    lambda models: shutil.rmtree(storage(models) / "refs"),
    lambda models: ref(models).write_text(""),
    lambda models: ref(models).write_text("\n"),
    lambda models: ref(models).write_text("../../elsewhere"),
    lambda models: ref(models).write_bytes(b"\xff\xfe"),
    lambda models: ref(models).write_text("f" * 40),  # a commit that was pruned, or never came
    lambda models: ref(models).write_text(ref(models).read_text() + "\n"),
], ids=["no-ref", "no-refs", "empty", "blank", "path", "binary", "pruned", "newline"])  # fmt: skip
def test_a_snapshot_without_its_reference_is_found(models: Path, change: Callable[[Path], object]) -> None:
    revision = snapshot(models).name
    change(models)
    assert whole(models, revision)


def test_copies_without_links(models: Path, tmp_path: Path) -> None:
    """As `cp -rL` leaves them, of all of the cache and of `snapshots` alone; and links without their `blobs`."""
    revision = snapshot(models).name
    shutil.copytree(models, tmp_path / "copied", symlinks=False)
    assert whole(tmp_path / "copied", revision)
    shutil.rmtree(storage(tmp_path / "copied") / "blobs")
    shutil.rmtree(storage(tmp_path / "copied") / "refs")
    assert whole(tmp_path / "copied", revision)
    shutil.rmtree(storage(models) / "blobs")
    state, missing = scanned(models)
    assert state == ReplicaState.MISSING
    assert missing == ("model_index.json",)


def test_a_cache_that_is_linked(models: Path, tmp_path: Path) -> None:
    revision = snapshot(models).name
    shutil.move(storage(models), tmp_path / "elsewhere")
    storage(models).symlink_to(tmp_path / "elsewhere")
    assert whole(models, revision)
    ref(models).unlink()
    shutil.move(storage(models) / "snapshots" / revision, tmp_path / "one")
    (storage(models) / "snapshots" / revision).symlink_to(tmp_path / "one")
    assert replicas.scan(models, DEMO.get("T2V-A14B")).revision == revision


def test_partial_files_do_not_count(models: Path) -> None:
    folder = snapshot(models)
    name = weights(folder)
    blob = (folder / name).resolve()
    blob.rename(blob.with_name(blob.name + ".incomplete"))
    assert scanned(models) == (ReplicaState.MISSING, (name,))


def copied(models: Path, revision: str, age: float) -> Path:
    made = storage(models) / "snapshots" / revision
    shutil.copytree(snapshot(models), made, symlinks=True)
    os.utime(made, (1e9 - age, 1e9 - age))
    return made


def test_of_several_snapshots_without_a_reference_the_newest_whole_one_counts(models: Path) -> None:
    mine = snapshot(models)
    older, newer = copied(models, "a" * 40, 200), copied(models, "b" * 40, 100)
    os.utime(mine, (1e9 - 300, 1e9 - 300))
    assert whole(models, mine.name), "the reference decides, where there is one"
    ref(models).unlink()
    assert whole(models, newer.name)
    (newer / "model_index.json").unlink()
    assert whole(models, older.name)
    replaced(older, weights(older), POINTER)
    assert whole(models, mine.name)


def test_a_snapshot_that_another_branch_names_does_not_count(models: Path) -> None:
    mine = snapshot(models).name
    (storage(models) / "refs" / "pr").mkdir()
    ref(models).rename(storage(models) / "refs" / "pr" / "1")
    assert replicas.snapshot_dir(models, DEMO.get("T2V-A14B")) is None
    assert replicas.scan(models, DEMO.get("T2V-A14B")).state == ReplicaState.MISSING
    pinned = DEMO.get("T2V-A14B").model_copy(update={"revision": mine})
    assert replicas.scan(models, pinned).state == ReplicaState.AVAILABLE
    other = DEMO.get("T2V-A14B").model_copy(update={"revision": "c" * 40})
    assert replicas.snapshot_dir(models, other) is None, "a pinned commit is that one or none"


def test_a_part_of_the_referenced_snapshot_is_not_replaced_by_an_older_one(models: Path) -> None:
    copied(models, "a" * 40, 100)
    name = weights(snapshot(models))
    (snapshot(models) / name).unlink()
    assert scanned(models) == (ReplicaState.MISSING, (name,))


def test_a_flat_download_is_found_once_it_is_moved_into_a_snapshot(models: Path, tmp_path: Path) -> None:
    """As `hf download --local-dir` makes it, moved as the documentation says."""
    flat = tmp_path / "flat"
    shutil.copytree(snapshot(models), flat, symlinks=False)
    (flat / ".cache" / "huggingface").mkdir(parents=True)
    shutil.rmtree(storage(models))
    shutil.copytree(flat, storage(models))
    assert replicas.scan(models, DEMO.get("T2V-A14B")).state == ReplicaState.MISSING
    shutil.rmtree(storage(models))
    (storage(models) / "snapshots").mkdir(parents=True)
    shutil.move(flat, storage(models) / "snapshots" / "local")
    assert whole(models, "local")


def test_a_scan_writes_nothing(models: Path) -> None:
    """So a cache may be mounted read-only."""
    before = {path: path.lstat().st_mtime_ns for path in models.rglob("*")}
    ref(models).unlink()
    before.pop(ref(models))
    replicas.scan(models, DEMO.get("T2V-A14B"))
    after = {path: path.lstat().st_mtime_ns for path in models.rglob("*")}
    assert {path for path in before if before[path] != after.get(path)} <= {ref(models).parent}
    assert after.keys() == before.keys()
