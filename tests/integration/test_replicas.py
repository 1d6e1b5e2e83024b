"""A presence scan follows the model's own index files and says what is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared import catalogue, replicas
from shared.database import Database
from shared.states import ReplicaState
from tests.conftest import both_databases
from tests.jobs import DEMO


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-m", "workers.demo_models", str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def models(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "models", symlinks=True)
    return tmp_path / "models"


def snapshot(models: Path, model_id: str = "T2V-A14B") -> Path:
    found = replicas.snapshot_dir(models, DEMO.get(model_id))
    assert found is not None
    return found


@pytest.mark.parametrize("model_id", DEMO.model_ids)
def test_a_whole_model_is_available(models: Path, model_id: str) -> None:
    presence = replicas.scan(models, DEMO.get(model_id))
    assert (presence.state, presence.missing_files) == (ReplicaState.AVAILABLE, ())
    assert presence.revision == snapshot(models, model_id).name
    assert presence.bytes > 1_000_000


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
