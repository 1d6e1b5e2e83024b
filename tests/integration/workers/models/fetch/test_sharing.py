"""A file that another model in the cache has is linked, not fetched; a damaged one is fetched."""

import os
from pathlib import Path

from tests.support.models.fetching import plan_of
from tests.support.models.repos import make_repo
from tests.support.servers.faulty_hub import HubProcess
from workers.models.fetch.fetcher import fetch
from workers.models.fetch.plan import FetchPlan, FetchResult, Limits

ENCODER = os.urandom(500_000)


def run(plan: FetchPlan) -> FetchResult:
    return fetch(plan, report=lambda _: None, check=lambda: None, limit=Limits)


def served(root: Path) -> HubProcess:
    for name in ("one", "two"):
        files: dict[str, bytes | int] = {
            "text_encoder/model.safetensors": ENCODER,
            "transformer/model.safetensors": 200_000,
            "model_index.json": b"{}",
        }
        make_repo(root, f"maker/{name}", files)
    return HubProcess(root).start()


def blobs(models: Path, name: str) -> list[Path]:
    found = (models / f"models--maker--{name}" / "snapshots").glob("*/text_encoder/model.safetensors")
    return [path.resolve() for path in found]


def test_equal_weights_are_fetched_once(tmp_path: Path) -> None:
    hub = served(tmp_path / "hub")
    models = tmp_path / "models"
    try:
        run(plan_of(hub.url, "maker/one", models))
        second = run(plan_of(hub.url, "maker/two", models))
        assert second.bytes_fetched < 500_000
        assert second.bytes_total > 700_000
        (one,), (two,) = blobs(models, "one"), blobs(models, "two")
        assert one != two
        assert os.path.samefile(one, two)
    finally:
        hub.kill()


def test_a_damaged_file_is_not_linked(tmp_path: Path) -> None:
    hub = served(tmp_path / "hub")
    models = tmp_path / "models"
    try:
        run(plan_of(hub.url, "maker/one", models))
        (one,) = blobs(models, "one")
        one.write_bytes(b"x" + ENCODER[1:])
        assert run(plan_of(hub.url, "maker/two", models)).bytes_fetched > 700_000
        (two,) = blobs(models, "two")
        assert two.read_bytes() == ENCODER
    finally:
        hub.kill()
