"""The store, as a directory and as a bucket alike: its marker, what is kept whole or not at all, what is dropped."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import NotFound, StoreFull, StoreMismatch, StoreUnavailable
from shared.settings import Settings
from shared.storage.store import Store, open_store
from tests.support.s3_server import S3Server, in_bucket

Open = Callable[..., Store]


@pytest.fixture(params=["directory", "bucket"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the test's own store."""
    settings = Settings(home=tmp_path / "home")
    if request.param == "bucket":
        server: S3Server = request.getfixturevalue("s3_server")
        settings = in_bucket(settings, server.url)

    def opened(installation: str = "this-installation", *, create: bool = True) -> Store:
        return open_store(settings, lambda: installation, create=create)

    return opened


def nothing() -> None:
    pass


def made(store: Store, job_id: str, attempt: int, **files: bytes) -> None:
    folder = store.attempt_dir(job_id, attempt)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    store.keep(job_id, attempt, list(files), nothing, nothing)


def read(store: Store, job_id: str, attempt: int, name: str, size: int = 10_000) -> bytes:
    found = store.artifact(job_id, attempt, name)
    return found.read_bytes() if isinstance(found, Path) else b"".join(found.read(0, size))


def test_a_node_that_does_not_see_the_marker_refuses(opened: Open) -> None:
    with pytest.raises(StoreMismatch, match="no store marker"):
        opened(create=False)
    opened().ask()
    opened(create=False)
    with pytest.raises(StoreMismatch, match="another installation"):
        opened("another")


def test_inputs_are_kept_copied_and_dropped(opened: Open) -> None:
    here = opened()
    reference = here.put_input("job-1", "image.png", b"picture")
    copy = here.copy_input(reference, "job-2")
    here.drop_job("job-1")
    assert here.input_file(copy, 1).read_bytes() == b"picture"
    with pytest.raises(NotFound):
        here.input_file(reference, 1)
    with pytest.raises(NotFound):
        here.copy_input(reference, "job-3")


def test_an_artifacts_name_leads_nowhere_else(opened: Open) -> None:
    here = opened()
    made(here, "job", 1, video=b"x")
    for name in ("..", "../x", "a/b", "", ".hidden", "x" * 101, "nothing.mp4", "/etc/passwd", "a\0b"):
        with pytest.raises(NotFound):
            read(here, "job", 1, name)


def test_an_attempts_folder_is_fresh(opened: Open) -> None:
    here = opened()
    (here.attempt_dir("job", 1) / "old").write_bytes(b"x")
    assert list(here.attempt_dir("job", 1).iterdir()) == []


def test_attempts_are_kept_apart_and_dropped_one_by_one(opened: Open) -> None:
    here = opened()
    loser, winner = os.urandom(10_000), os.urandom(10_000)
    made(here, "job", 1, video=loser)
    made(here, "job", 12, video=winner, manifest=b"{}")
    assert here.attempts("job") == [1, 12]
    assert read(here, "job", 12, "video") == winner
    assert here.allocated_bytes("job") >= 20_000
    here.drop_attempt("job", 1)
    assert here.attempts("job") == [12]
    assert read(here, "job", 12, "video") == winner
    with pytest.raises(NotFound):
        read(here, "job", 1, "video")
    here.drop_job("job")
    assert here.attempts("job") == []
    assert here.allocated_bytes("job") == 0


def test_litter_is_told_with_its_attempts_once_it_is_old(opened: Open) -> None:
    here = opened()
    here.put_input("a", "image.png", b"x")
    made(here, "a", 2, video=b"x")
    made(here, "b", 1, video=b"x")
    here.put_input("c", "image.png", b"x")
    told = {one.job_id: one.attempts for one in here.orphaned_files(-5.0)}
    assert told == {"a": (2,), "b": (1,), "c": ()}
    assert list(here.orphaned_files(3600.0)) == []
    assert here.drop_unfinished(0.0) == 0


def test_litter_is_told_in_order_and_from_where_it_was_asked(opened: Open) -> None:
    here = opened()
    for job_id in ("d", "a", "c", "b"):
        here.put_input(job_id, "image.png", b"x")
    made(here, "b", 1, video=b"x")
    assert [one.job_id for one in here.orphaned_files(-5.0)] == ["a", "b", "c", "d"]
    found = here.orphaned_files(-5.0, after="a")
    assert [(one.job_id, one.attempts) for one in found] == [("b", (1,)), ("c", ()), ("d", ())]
    assert [one.job_id for one in here.orphaned_files(-5.0, after="b")] == ["c", "d"]
    assert list(here.orphaned_files(-5.0, after="d")) == []


def test_many_folders_are_told_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.storage.directory._NAMES_AT_ONCE", 7)
    here = open_store(Settings(home=tmp_path), lambda: "this-installation", create=True)
    names = [f"{place:03}" for place in range(50)]
    for place, name in enumerate(names):
        (tmp_path / "store" / "inputs" / name).mkdir()
        if place % 3 == 0:
            (tmp_path / "store" / "artifacts" / name / "1").mkdir(parents=True)
    assert [one.job_id for one in here.orphaned_files(-5.0)] == names


def test_many_jobs_are_dropped_together(opened: Open) -> None:
    here = opened()
    for place in range(30):
        here.put_input(f"job-{place}", "image.png", b"x")
        made(here, f"job-{place}", 1, video=b"x", manifest=b"{}")
    assert here.drop_jobs([*(f"job-{place}" for place in range(29)), "of-which-there-is-nothing"]) == {}
    assert [one.job_id for one in here.orphaned_files(-5.0)] == ["job-29"]
    here.drop_job("job-0")
    here.drop_attempt("job-0", 1)


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = open_store(Settings(home=tmp_path), lambda: "this-installation", create=True)
    for job_id in ("a", "b"):
        here.put_input(job_id, "image.png", b"x")
        made(here, job_id, 1, video=b"x")
    unlink = os.unlink

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if path == "image.png" and "/a" in os.readlink(f"/proc/self/fd/{dir_fd}"):
            raise OSError(errno.EIO, "Input/output error", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StoreUnavailable, match=r"cannot be removed from the store: Input/output error"):
        here.drop_job("a")
    assert list(here.drop_jobs(["a", "b"])) == ["a"]
    assert here.attempts("a") == [1], "the artifacts are tried once the inputs are gone"
    assert here.attempts("b") == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = open_store(Settings(home=tmp_path), lambda: "this-installation", create=True)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFull):
        here.put_input("job", "image.png", b"picture")
    assert list((tmp_path / "store" / "inputs").iterdir()) == []
