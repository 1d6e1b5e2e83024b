"""What every store promises, as a class of tests. A backend passes it with a subclass that gives its settings."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import NotFound, StoreMismatch
from shared.settings import Settings
from shared.storage.store import Store, open_store

Open = Callable[..., Store]


def nothing() -> None:
    pass


def add_artifacts(store: Store, job_id: str, attempt: int, **files: bytes) -> None:
    """Write the files of an attempt and keep them, as a worker does at a job's end."""
    folder = store.attempt_dir(job_id, attempt)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    store.keep(job_id, attempt, list(files), nothing, nothing)


def read(store: Store, job_id: str, attempt: int, name: str, size: int = 10_000) -> bytes:
    found = store.artifact(job_id, attempt, name)
    return found.read_bytes() if isinstance(found, Path) else b"".join(found.read(0, size))


class StoreConformance:
    """The subclass gives the fixture `store_settings`: settings of an empty store of its kind."""

    @pytest.fixture
    def store_settings(self, tmp_path: Path) -> Settings:
        raise NotImplementedError("a backend's class gives the settings of an empty store")

    @pytest.fixture
    def opened(self, store_settings: Settings) -> Open:
        """Open the test's own store, by default as this installation and with the right to create it."""

        def opened(installation: str = "this-installation", *, create: bool = True) -> Store:
            return open_store(store_settings, lambda: installation, create=create)

        return opened

    def test_a_node_that_does_not_see_the_marker_is_refused(self, opened: Open) -> None:
        with pytest.raises(StoreMismatch, match="no store marker"):
            opened(create=False)
        opened().ask()
        opened(create=False)
        with pytest.raises(StoreMismatch, match="another installation"):
            opened("another")

    def test_inputs_are_kept_copied_and_dropped(self, opened: Open) -> None:
        store = opened()
        reference = store.put_input("job-1", "image.png", b"picture")
        copy = store.copy_input(reference, "job-2")
        store.drop_job("job-1")
        assert store.read_input(copy) == b"picture"
        assert store.input_file(copy, "job-2", 1).read_bytes() == b"picture"
        with pytest.raises(NotFound):
            store.input_file(reference, "job-1", 1)
        with pytest.raises(NotFound):
            store.copy_input(reference, "job-3")

    def test_an_artifact_of_another_job_is_an_input(self, opened: Open) -> None:
        store = opened()
        add_artifacts(store, "job-1", 2, video=b"frame")
        reference = "artifacts/job-1/2/video"
        assert store.input_file(reference, "job-2", 1).read_bytes() == b"frame"
        assert store.input_file(store.copy_input(reference, "job-3"), "job-3", 1).read_bytes() == b"frame"
        store.drop_job("job-1")
        with pytest.raises(NotFound):
            store.input_file(reference, "job-2", 2)

    def test_an_artifacts_name_cannot_leave_its_folder(self, opened: Open) -> None:
        store = opened()
        add_artifacts(store, "job", 1, video=b"x")
        for name in ("..", "../x", "a/b", "", ".hidden", "x" * 101, "nothing.mp4", "/etc/passwd", "a\0b"):
            with pytest.raises(NotFound):
                read(store, "job", 1, name)

    def test_an_attempts_folder_is_empty_at_first(self, opened: Open) -> None:
        store = opened()
        (store.attempt_dir("job", 1) / "old").write_bytes(b"x")
        assert list(store.attempt_dir("job", 1).iterdir()) == []

    def test_attempts_are_kept_apart_and_dropped_one_by_one(self, opened: Open) -> None:
        store = opened()
        loser, winner = os.urandom(10_000), os.urandom(10_000)
        add_artifacts(store, "job", 1, video=loser)
        add_artifacts(store, "job", 12, video=winner, manifest=b"{}")
        assert store.attempts("job") == [1, 12]
        assert read(store, "job", 12, "video") == winner
        assert store.allocated_bytes("job") >= 20_000
        store.drop_attempt("job", 1)
        assert store.attempts("job") == [12]
        assert read(store, "job", 12, "video") == winner
        with pytest.raises(NotFound):
            read(store, "job", 1, "video")
        store.drop_job("job")
        assert store.attempts("job") == []
        assert store.allocated_bytes("job") == 0

    def test_a_checkpoint_is_replaced_fetched_and_dropped(self, opened: Open, tmp_path: Path) -> None:
        store = opened()
        given, copy = tmp_path / "given", tmp_path / "copy"
        for attempt, content in ((1, b"first"), (2, b"second"), (2, os.urandom(100_000))):
            given.write_bytes(content)
            store.put_checkpoint("job", attempt, given, nothing)
        store.fetch_checkpoint("job", 2, copy)
        assert copy.read_bytes() == given.read_bytes()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert store.attempts("job") == [], "a checkpoint is no artifact"
        assert store.allocated_bytes("job") >= 100_000
        store.drop_checkpoints("job", lambda attempt: attempt < 2)
        with pytest.raises(NotFound):
            store.fetch_checkpoint("job", 1, copy)
        store.fetch_checkpoint("job", 2, copy)
        store.drop_checkpoints("job")
        for attempt in (1, 2):
            with pytest.raises(NotFound):
                store.fetch_checkpoint("job", attempt, copy)
        assert list(store.orphaned_files(-5.0)) == []
        store.drop_checkpoints("a-job-without-files")

    def test_a_checkpoint_goes_with_its_job(self, opened: Open, tmp_path: Path) -> None:
        store = opened()
        (tmp_path / "given").write_bytes(b"x")
        store.put_checkpoint("a", 1, tmp_path / "given", nothing)
        add_artifacts(store, "a", 1, video=b"x")
        add_artifacts(store, "b", 1, video=b"x")
        found = {one.job_id: (one.attempts, one.checkpoint) for one in store.orphaned_files(-5.0)}
        assert found == {"a": ((1,), True), "b": ((1,), False)}
        store.drop_checkpoints("a")
        assert store.attempts("a") == [1]
        store.put_checkpoint("a", 1, tmp_path / "given", nothing)
        store.drop_job("a")
        assert [one.job_id for one in store.orphaned_files(-5.0)] == ["b"]

    def test_orphaned_files_are_listed_with_their_attempts_once_they_are_old(self, opened: Open) -> None:
        store = opened()
        store.put_input("a", "image.png", b"x")
        add_artifacts(store, "a", 2, video=b"x")
        add_artifacts(store, "b", 1, video=b"x")
        store.put_input("c", "image.png", b"x")
        found = {one.job_id: one.attempts for one in store.orphaned_files(-5.0)}
        assert found == {"a": (2,), "b": (1,), "c": ()}
        assert list(store.orphaned_files(3600.0)) == []
        assert store.drop_unfinished(0.0) == 0

    def test_orphaned_files_are_listed_in_order_and_from_a_given_job(self, opened: Open) -> None:
        store = opened()
        for job_id in ("d", "a", "c", "b"):
            store.put_input(job_id, "image.png", b"x")
        add_artifacts(store, "b", 1, video=b"x")
        assert [one.job_id for one in store.orphaned_files(-5.0)] == ["a", "b", "c", "d"]
        found = store.orphaned_files(-5.0, after="a")
        assert [(one.job_id, one.attempts) for one in found] == [("b", (1,)), ("c", ()), ("d", ())]
        assert [one.job_id for one in store.orphaned_files(-5.0, after="b")] == ["c", "d"]
        assert list(store.orphaned_files(-5.0, after="d")) == []

    def test_many_jobs_are_dropped_together(self, opened: Open) -> None:
        store = opened()
        for place in range(30):
            store.put_input(f"job-{place}", "image.png", b"x")
            add_artifacts(store, f"job-{place}", 1, video=b"x", manifest=b"{}")
        assert store.drop_jobs([*(f"job-{place}" for place in range(29)), "a-job-without-files"]) == {}
        assert [one.job_id for one in store.orphaned_files(-5.0)] == ["job-29"]
        store.drop_job("job-0")
        store.drop_attempt("job-0", 1)

    def test_the_file_of_a_lora_is_kept_under_its_sha256_and_dropped(self, opened: Open, tmp_path: Path) -> None:
        store = opened()
        content = b"weights" * 1000
        sha256 = hashlib.sha256(content).hexdigest()
        (tmp_path / "lora").write_bytes(content)
        for _ in range(2):  # the second time it is there already
            store.put_lora(sha256, tmp_path / "lora", nothing)
        copies = tmp_path / "copies"
        assert store.lora_file(sha256, copies).read_bytes() == content
        assert store.lora_file(sha256, copies).read_bytes() == content
        assert (store.loras(0), store.loras(3600)) == ([sha256], [])
        assert list(store.orphaned_files(0)) == []
        store.drop_lora(sha256)
        store.drop_lora(sha256)
        assert store.loras(0) == []
        with pytest.raises(NotFound):
            store.lora_file(sha256, tmp_path / "no-copies")
        with pytest.raises(NotFound):
            store.lora_file("../marker", copies)
