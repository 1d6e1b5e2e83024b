"""Demo models in a cache of a test's own, and their prepared copies."""

import os
import shutil
from pathlib import Path

from shared.models.prepared import Form
from tests.support.models.generating import snapshots
from workers.generation import demo_models
from workers.models.fetch.layout import RepoCache
from workers.models.preparing.writing import Written, prepare


def own(models: Path, model_id: str) -> Path:
    """Copy a demo model into `models`. Return its snapshot folder."""
    source = snapshots()[model_id]
    folder = source.parents[1]
    shutil.copytree(folder, models / folder.name, symlinks=True, dirs_exist_ok=True)
    return models / folder.name / "snapshots" / source.name


def with_equal_parts(models: Path, components: tuple[str, ...] = ("text_encoder", "vae")) -> tuple[Path, Path]:
    """Write T2V, and I2V with the same text encoder and VAE, as they are published. Return their snapshots."""
    one, other = own(models, "T2V-A14B"), own(models, "I2V-A14B")
    for link in (link for component in components for link in (one / component).iterdir()):
        blob = link.resolve()
        target = other.parents[1] / "blobs" / blob.name
        if not target.exists():
            shutil.copyfile(blob, target)
        place = other / link.relative_to(one)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(target, place.parent))
    return one, other


def cache_of(models: Path, model_id: str) -> RepoCache:
    return RepoCache(models, f"{demo_models.OWNER}/{model_id}")


def prepared_here(models: Path, model_id: str, form: Form = "bf16") -> Written:
    """Write the copies of a model that stands in `models`."""
    (folder,) = (models / f"models--{demo_models.OWNER}--{model_id}" / "snapshots").iterdir()
    return prepared_at(folder, form)


def prepared_at(snapshot: Path, form: Form) -> Written:
    """Write the copies of a snapshot."""
    owner, name = snapshot.parents[1].name.removeprefix("models--").split("--", 1)
    cache = RepoCache(snapshot.parents[2], f"{owner}/{name}")
    return prepare(cache, snapshot, form, 0, report=lambda _: None, check=lambda: None)
