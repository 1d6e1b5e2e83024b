"""The model on the hub of the tests, and whether it has come whole."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import scan_cache_dir

from workers.models.fetch.partials import partials
from workers.models.fetch.plan import FetchPlan

REPO = "maker/model"
WEIGHTS = "transformer/model-1.safetensors"
SIZES: dict[str, bytes | int] = {
    "model_index.json": b'{"_class_name": "WanPipeline"}',
    "transformer/config.json": b"{}",
    WEIGHTS: 6_000_000,
    "transformer/model-2.safetensors": 2_000_000,
    "tokenizer/spiece.model": 50_000,
    "empty.txt": b"",
    "pickled.bin": b"never fetched",
}
# What may be under way to a client under a limit of 40 Mbps: its window, and what the hub holds unsent for it.
CHUNK = 2 << 20  # of one file: what the client's kernel and its buffer hold, and what the hub has in hand
TOTAL = 8_050_000 + 30 + 2
PATH = f"*/{WEIGHTS}"


def assert_whole(plan: FetchPlan, served: Path) -> None:
    """Every file equals the hub's, in the library's layout, without leftovers."""
    folder = plan.models_dir / "models--maker--model"
    origin = served / "models--maker--model" / "snapshots" / plan.sha
    for file in plan.files:
        link = folder / "snapshots" / plan.sha / file.path
        assert link.read_bytes() == (origin / file.path).read_bytes(), file.path
        assert not os.path.isabs(os.readlink(link))
        assert link.resolve().name == file.oid
    assert (folder / "refs" / "main").read_text() == plan.sha
    assert partials(plan.models_dir) == []
    (repo,) = scan_cache_dir(plan.models_dir).repos
    assert {file.file_name for revision in repo.revisions for file in revision.files} == {
        Path(file.path).name for file in plan.files
    }


def _oid(plan: FetchPlan, path: str) -> str:
    return next(file.oid for file in plan.files if file.path == path)


class Stop(Exception):
    """Raised by a test's check."""


def _after_bytes(plan: FetchPlan, count: int) -> Any:
    def check() -> None:
        if sum(partial.bytes for partial in partials(plan.models_dir)) > count:
            raise Stop

    return check
