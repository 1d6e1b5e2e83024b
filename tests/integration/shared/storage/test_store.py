"""Both stores pass the conformance suite; and what only a directory can do wrong."""

import errno
import os
from pathlib import Path

import pytest

from shared.errors import StoreFull, StoreUnavailable
from shared.settings import Settings
from shared.storage.store import open_store
from tests.integration.shared.storage.conformance import StoreConformance, add_artifacts
from tests.support.servers.s3_server import S3Server, in_bucket


class TestDirectory(StoreConformance):
    @pytest.fixture
    def store_settings(self, tmp_path: Path) -> Settings:
        return Settings(home=tmp_path / "home")


class TestBucket(StoreConformance):
    @pytest.fixture
    def store_settings(self, tmp_path: Path, s3_server: S3Server) -> Settings:  # type: ignore[override]
        return in_bucket(Settings(home=tmp_path / "home"), s3_server.url)


def test_many_folders_are_listed_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.storage.directory._NAMES_AT_ONCE", 7)
    store = open_store(Settings(home=tmp_path), lambda: "this-installation", create=True)
    names = [f"{place:03}" for place in range(50)]
    for place, name in enumerate(names):
        (tmp_path / "store" / "inputs" / name).mkdir()
        if place % 3 == 0:
            (tmp_path / "store" / "artifacts" / name / "1").mkdir(parents=True)
    assert [one.job_id for one in store.orphaned_files(-5.0)] == names


def test_files_that_cannot_be_removed_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(Settings(home=tmp_path), lambda: "this-installation", create=True)
    for job_id in ("a", "b"):
        store.put_input(job_id, "image.png", b"x")
        add_artifacts(store, job_id, 1, video=b"x")
    unlink = os.unlink

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if path == "image.png" and "/a" in os.readlink(f"/proc/self/fd/{dir_fd}"):
            raise OSError(errno.EIO, "Input/output error", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StoreUnavailable, match=r": Input/output error"):
        store.drop_job("a")
    assert list(store.drop_jobs(["a", "b"])) == ["a"]
    assert store.attempts("a") == [1], "the artifacts are tried once the inputs are gone"
    assert store.attempts("b") == []


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(Settings(home=tmp_path), lambda: "this-installation", create=True)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFull):
        store.put_input("job", "image.png", b"picture")
    assert list((tmp_path / "store" / "inputs").iterdir()) == []
