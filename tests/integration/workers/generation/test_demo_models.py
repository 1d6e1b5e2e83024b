"""The random-weight models: the real ones' classes and layout, with identical bytes in every run."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from tests.support.models.generating import CATALOGUE, snapshots
from workers.generation import demo_models


def tree(folder: Path) -> dict[str, str]:
    """Return every file and link below a folder, with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_the_same_bytes_from_run_to_run(tmp_path: Path) -> None:
    first = snapshots()["T2V-A14B"].parents[2]
    demo_models.make(tmp_path)
    assert tree(tmp_path) == tree(first)


def test_a_second_run_changes_nothing_and_returns_at_once(tmp_path: Path) -> None:
    made = demo_models.make(tmp_path, ["TI2V-5B"])
    stamps = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    since = time.perf_counter()
    assert demo_models.make(tmp_path, ["TI2V-5B"]) == made
    assert time.perf_counter() - since < 0.5
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps


def test_what_is_missing_is_made_again(tmp_path: Path) -> None:
    made = demo_models.make(tmp_path, ["TI2V-5B"])["TI2V-5B"]
    whole = tree(tmp_path)
    (made / "vae" / "diffusion_pytorch_model.safetensors").resolve().unlink()
    assert demo_models.make(tmp_path, ["TI2V-5B"])["TI2V-5B"] == made
    assert tree(tmp_path) == whole


def test_the_cache_layout_is_that_of_the_hub(tmp_path: Path) -> None:
    scanned = scan_cache_dir(snapshots()["T2V-A14B"].parents[2])
    assert not scanned.warnings
    assert {repo.repo_id for repo in scanned.repos} == {entry.own_repo for entry in CATALOGUE.entries}
    for repo in scanned.repos:
        (revision,) = repo.revisions
        assert revision.refs == {"main"}
        assert len(revision.commit_hash) == 40
        assert repo.size_on_disk < 8_000_000
        for file in revision.files:
            content = file.blob_path.read_bytes()
            name = hashlib.sha256(content).hexdigest()
            if not file.file_name.endswith(".safetensors"):
                name = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            assert file.blob_path.name == name


@pytest.mark.parametrize("model_id", ["T2V-A14B", "I2V-A14B", "TI2V-5B"])
def test_each_has_the_architecture_of_the_real_one(model_id: str) -> None:
    folder = snapshots()[model_id]
    index = json.loads((folder / "model_index.json").read_text())
    transformer = json.loads((folder / "transformer" / "config.json").read_text())
    vae = json.loads((folder / "vae" / "config.json").read_text())
    entry = CATALOGUE.get(model_id)
    two = entry.boundary_ratio is not None
    assert index["boundary_ratio"] == entry.boundary_ratio
    assert index["expand_timesteps"] is (model_id == "TI2V-5B")
    assert (folder / "transformer_2").exists() is two
    assert transformer["in_channels"] == {"T2V-A14B": 16, "I2V-A14B": 36, "TI2V-5B": 48}[model_id]
    assert vae["z_dim"] == (16 if two else 48)
    assert (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").exists()
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "UniPCMultistepScheduler"
    assert scheduler["flow_shift"] == (3.0 if two else 5.0)


def test_the_two_experts_differ() -> None:
    folder = snapshots()["T2V-A14B"]
    names = [f"{part}/diffusion_pytorch_model-00001-of-00006.safetensors" for part in ("transformer", "transformer_2")]
    assert (folder / names[0]).resolve() != (folder / names[1]).resolve()


def test_diffusers_itself_loads_them() -> None:
    from diffusers import DiffusionPipeline, WanImageToVideoPipeline, WanPipeline

    for model_id, kind in (("T2V-A14B", WanPipeline), ("I2V-A14B", WanImageToVideoPipeline), ("TI2V-5B", WanPipeline)):
        assert type(DiffusionPipeline.from_pretrained(snapshots()[model_id], local_files_only=True)) is kind
