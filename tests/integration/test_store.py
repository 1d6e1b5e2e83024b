"""The store: its marker, what is written whole or not at all, and names that lead nowhere else."""

import errno
from pathlib import Path

import pytest

from shared import store
from shared.errors import NotFound, StoreFull, StoreMismatch
from shared.store import open_store


def opened(folder: Path) -> store.Store:
    return open_store(folder, lambda: "this-installation", create=True)


def test_a_node_that_does_not_see_the_marker_refuses(tmp_path: Path) -> None:
    with pytest.raises(StoreMismatch, match="no store marker"):
        open_store(tmp_path / "store", lambda: "this-installation", create=False)
    opened(tmp_path / "store")
    open_store(tmp_path / "store", lambda: "this-installation", create=False)
    with pytest.raises(StoreMismatch, match="another installation"):
        open_store(tmp_path / "store", lambda: "another", create=True)


def test_inputs_are_kept_copied_and_dropped(tmp_path: Path) -> None:
    here = opened(tmp_path)
    reference = here.put_input("job-1", "image.png", b"picture")
    copy = here.copy_input(reference, "job-2")
    here.drop_job("job-1")
    assert here.input_path(copy).read_bytes() == b"picture"
    assert not here.input_path(reference).exists()
    with pytest.raises(NotFound):
        here.copy_input(reference, "job-3")


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "", ".hidden", "x" * 101, "nothing.mp4", "/etc/passwd", "a\0b"])
def test_an_artifacts_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    here = opened(tmp_path)
    here.attempt_dir("job", 1)
    with pytest.raises(NotFound):
        here.artifact("job", 1, name)


def test_an_attempts_folder_is_fresh(tmp_path: Path) -> None:
    here = opened(tmp_path)
    (here.attempt_dir("job", 1) / "old").write_bytes(b"x")
    assert list(here.attempt_dir("job", 1).iterdir()) == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = opened(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFull):
        here.put_input("job", "image.png", b"picture")
    assert list((tmp_path / "inputs").iterdir()) == []
