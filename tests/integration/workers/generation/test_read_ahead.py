"""The files of the next model are in the page cache before it is loaded."""

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from shared.models import prepared
from tests.support.models.generating import CATALOGUE, snapshots
from tests.support.stack import wait_for
from workers.devices import discovery
from workers.generation.read_ahead import files_of, read_ahead

_MINCORE = ctypes.CDLL(None, use_errno=True).mincore
_BYTES = 8 * 2**20


def cached_pages(path: Path) -> tuple[int, int]:
    """How many of the file's pages are in the page cache, and how many it has."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        count = -(-len(mapped) // mmap.PAGESIZE)
        pages = (ctypes.c_ubyte * count)()
        view = ctypes.c_char.from_buffer(mapped)
        assert _MINCORE(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(mapped)), pages) == 0
        del view
        return sum(page & 1 for page in pages), count


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A model's weights, none of which are in the page cache."""
    for name in ("text_encoder/model", "transformer/diffusion_pytorch_model", "transformer_2/diffusion_pytorch_model"):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir()
        with path.open("wb") as stream:
            stream.write(os.urandom(_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return tmp_path


def test_the_weights_are_in_the_page_cache(snapshot: Path) -> None:
    files = files_of(snapshot, CATALOGUE.get("T2V-A14B"), "none", "cpu")
    assert len(files) == 3
    if any(cached_pages(file)[0] for file in files):
        pytest.skip("this file system keeps pages that it is asked to drop")
    assert read_ahead(snapshot, CATALOGUE.get("T2V-A14B"), "none", "cpu") == 3 * _BYTES
    for file in files:
        wait_for(lambda file=file: cached_pages(file)[0] == cached_pages(file)[1], 20, f"for {file.name}")


def test_nothing_is_read_that_does_not_fit_the_free_memory(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "free_host_memory_mb", lambda: 3 * _BYTES // discovery.MB - 1)
    assert read_ahead(snapshot, CATALOGUE.get("T2V-A14B"), "none", "cpu") == 0


@pytest.mark.parametrize("model_id", ["T2V-A14B", "I2V-A14B", "TI2V-5B"])
def test_it_reads_every_file_of_weights_that_was_published(model_id: str) -> None:
    entry = CATALOGUE.get(model_id)
    snapshot = snapshots()[entry.weights_id]
    found = files_of(snapshot, entry, "none", "cpu")
    published = [
        path for path in snapshot.rglob("*.safetensors") if not path.is_relative_to(snapshot / prepared.FOLDER)
    ]
    assert sorted(found) == sorted(published)
