"""The store as a bucket: S3, or a compatible server, through fsspec's s3fs.

An attempt writes to the local disk, and its files are uploaded before it may succeed. The server verifies the bytes:
each request is signed and carries a checksum of its body, and a file's length is checked afterwards. The sweep removes
files of attempts that did not win, which no row names, and unfinished uploads.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from shared.errors import NotFound, StoreUnavailable
from shared.settings import Settings
from shared.storage import s3
from shared.storage.bucket_objects import SHUTDOWN_SECONDS, BucketObjects, age_seconds
from shared.storage.disk import full_disk_as_store_full
from shared.storage.layout import (
    ARTIFACTS,
    CHECKPOINT,
    INPUTS,
    LORAS,
    MARKER,
    OrphanedFiles,
    artifact_name,
    every,
    input_path,
    lora_name,
    must_mark,
)
from shared.storage.s3 import BucketFile, answers, refusals
from shared.storage.scratch import Scratch

log = logging.getLogger("wanworks.store")

_LISTED_AT_ONCE = 16  # parallel listings when many jobs are removed


class BucketStore:
    """One prefix of one bucket."""

    def __init__(self, settings: Settings) -> None:
        place = urlsplit(settings.store_url or "")
        self._prefix = f"{place.path.strip('/')}/" if place.path.strip("/") else ""
        self._settings = settings
        self._scratch = Scratch(settings.home / "scratch")
        self._files = s3.files(settings, settings.store_endpoint)
        self._objects = BucketObjects(self._files, place.netloc, settings)
        self._linked = s3.files(settings, settings.store_public_endpoint) if settings.store_public_endpoint else None

    @classmethod
    def opened(cls, settings: Settings, agreed: Callable[[], str], *, create: bool) -> Self:
        """Open the store. Raises StoreMismatch, StoreUnavailable, and ConfigurationError if access is impossible."""
        store = cls(settings)
        place = str(settings.store_url)
        installation = agreed()
        with refusals(place):
            store._objects.call("head_bucket")
            if must_mark(store._marker(), installation, place, create=create):
                with answers():
                    store._files.pipe_file(store._path(MARKER), installation.encode())
                must_mark(store._marker() or "", installation, place, create=False)
        return store

    def put_input(self, job_id: str, name: str, content: bytes) -> str:
        try:
            with answers():
                self._files.pipe_file(self._path(INPUTS, job_id, name), content)
        except FileNotFoundError as error:
            raise StoreUnavailable("The bucket no longer exists") from error
        return f"{job_id}/{name}"

    def copy_input(self, reference: str, job_id: str, name: str | None = None) -> str:
        """Copy the input within the bucket."""
        name = name or reference.rpartition("/")[2]
        try:
            with answers():
                self._files.cp_file(self._path(input_path(reference)), self._path(INPUTS, job_id, name))
        except FileNotFoundError:
            raise NotFound("input", reference) from None
        return f"{job_id}/{name}"

    def read_input(self, reference: str) -> bytes:
        try:
            with answers():
                content: bytes = self._files.cat_file(self._path(input_path(reference)))
        except FileNotFoundError:
            raise NotFound("input", reference) from None
        return content

    def input_file(self, reference: str, job_id: str, attempt: int) -> Path:
        name = reference.replace("/", "-")  # frames of two other jobs may have the same name
        content = self.read_input(reference)
        folder = self._scratch.ours(_piece(job_id, attempt)) / "inputs"
        with full_disk_as_store_full():
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return folder / name

    def release_inputs(self, job_id: str, attempt: int) -> None:
        self._scratch.drop(_piece(job_id, attempt))

    def attempt_dir(self, job_id: str, attempt: int) -> Path:
        """Return the folder. Check the bucket first, so that no video is made that could not be uploaded."""
        self.ask()
        folder = self._scratch.fresh(_piece(job_id, attempt)) / "made"
        with full_disk_as_store_full():
            folder.mkdir()
        return folder

    def keep(
        self,
        job_id: str,
        attempt: int,
        names: Collection[str],
        check: Callable[[], None],
        moved: Callable[[], None],
    ) -> None:
        folder = self._scratch.ours(_piece(job_id, attempt)) / "made"
        for name in names:
            self._objects.send(folder / name, self._key(ARTIFACTS, job_id, str(attempt), name), check, moved)
        self._scratch.drop(_piece(job_id, attempt))

    def artifact(self, job_id: str, attempt: int, name: str) -> BucketFile:
        path = self._path(ARTIFACTS, job_id, str(attempt), artifact_name(name))
        return BucketFile(self._files, self._linked or self._files, path, self._settings.store_link_seconds)

    def put_checkpoint(self, job_id: str, attempt: int, file: Path, check: Callable[[], None]) -> None:
        """Try once: the next checkpoint comes soon, and nothing waits for this one."""
        self._objects.send_once(file, self._key(ARTIFACTS, job_id, CHECKPOINT, str(attempt)), check, lambda: None)

    def fetch_checkpoint(self, job_id: str, attempt: int, to: Path) -> None:
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        try:
            with answers(), full_disk_as_store_full():
                self._files.get_file(self._path(ARTIFACTS, job_id, CHECKPOINT, str(attempt)), str(to))
        except FileNotFoundError:
            raise NotFound("checkpoint", f"{job_id}/{attempt}") from None

    def drop_checkpoints(self, job_id: str, of: Callable[[int], bool] = every) -> None:
        prefix = self._key(ARTIFACTS, job_id, CHECKPOINT, "")
        names = [one["Key"].removeprefix(prefix) for one in self._objects.listed(prefix)]
        keys = [f"{prefix}{name}" for name in names if not name.isdigit() or of(int(name))]
        if left := self._objects.delete(keys):
            raise next(iter(left.values()))

    def put_lora(self, sha256: str, file: Path, check: Callable[[], None]) -> None:
        self._objects.send(file, self._key(LORAS, lora_name(sha256)), check, lambda: None)

    def lora_file(self, sha256: str, cache: Path) -> Path:
        """Download it once. The copy gets its name after its content was verified."""
        name = lora_name(sha256)
        there = cache / name
        if there.is_file():
            os.utime(there)  # those that were not used for the longest time are removed first
            return there
        temporary = cache / f".{name}.{os.getpid()}.{threading.get_ident()}.tmp"
        try:
            with answers(), full_disk_as_store_full():
                cache.mkdir(parents=True, exist_ok=True)
                self._files.get_file(self._path(LORAS, name), str(temporary))
            with temporary.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise StoreUnavailable(f"The bucket's file of the LoRA {sha256} has another content ({found})")
            temporary.replace(there)
        except FileNotFoundError:
            raise NotFound("LoRA file", sha256) from None
        finally:
            temporary.unlink(missing_ok=True)
        return there

    def drop_lora(self, sha256: str) -> None:
        if left := self._objects.delete([self._key(LORAS, lora_name(sha256))]):
            raise next(iter(left.values()))

    def loras(self, older_than_seconds: float) -> list[str]:
        found = self._objects.listed(self._key(LORAS, ""))
        old = (one["Key"] for one in found if age_seconds(one["LastModified"]) >= older_than_seconds)
        return [Path(key).stem for key in old if key.endswith(".safetensors")]

    def drop_attempt(self, job_id: str, attempt: int) -> None:
        self._scratch.drop(_piece(job_id, attempt))
        prefix = self._key(ARTIFACTS, job_id, str(attempt), "")
        self._objects.drop(prefix, SHUTDOWN_SECONDS)
        self._objects.abort(prefix, 0.0, SHUTDOWN_SECONDS)

    def drop_job(self, job_id: str) -> None:
        for area in (INPUTS, ARTIFACTS):
            self._objects.drop(self._key(area, job_id, ""))

    def drop_jobs(self, job_ids: Sequence[str]) -> dict[str, StoreUnavailable]:
        """List in parallel, and delete a thousand objects with each request."""
        failed: dict[str, StoreUnavailable] = {}
        owners: dict[str, str] = {}

        def keys_of(job_id: str) -> list[str] | StoreUnavailable:
            try:
                both = (self._objects.listed(self._key(area, job_id, "")) for area in (INPUTS, ARTIFACTS))
                return [one["Key"] for area in both for one in area]
            except StoreUnavailable as error:
                return error

        with ThreadPoolExecutor(_LISTED_AT_ONCE, "listing") as pool:
            for job_id, keys in zip(job_ids, pool.map(keys_of, job_ids), strict=True):
                if isinstance(keys, StoreUnavailable):
                    failed[job_id] = keys
                else:
                    owners |= dict.fromkeys(keys, job_id)
        for key, error in self._objects.delete(list(owners)).items():
            failed.setdefault(owners[key], error)
        return failed

    def orphaned_files(self, older_than_seconds: float, after: str = "") -> Iterator[OrphanedFiles]:
        """Read one listing of everything after `after`, page by page."""
        both = merge(self._owned(INPUTS, after), self._owned(ARTIFACTS, after), key=lambda one: one.job_id)
        for job_id, group in groupby(both, key=lambda one: one.job_id):
            objects = list(group)
            if age_seconds(max(one.modified for one in objects)) > older_than_seconds:
                attempts = {one.attempt for one in objects if one.attempt is not None}
                checkpoint = any(one.checkpoint for one in objects)
                yield OrphanedFiles(job_id, tuple(sorted(attempts)), checkpoint)

    def drop_unfinished(self, older_than_seconds: float) -> int:
        return self._objects.abort(self._prefix, older_than_seconds)

    def attempts(self, job_id: str) -> list[int]:
        parts = (one["Key"].split("/")[-2] for one in self._objects.listed(self._key(ARTIFACTS, job_id, "")))
        return sorted({int(part) for part in parts if part.isdigit()})

    def allocated_bytes(self, job_id: str) -> int:
        areas = (self._objects.listed(self._key(area, job_id, "")) for area in (INPUTS, ARTIFACTS))
        return sum(one["Size"] for area in areas for one in area)

    def is_beside(self, folder: Path) -> bool:
        return False

    def ask(self) -> None:
        try:
            self._objects.call("head_object", Key=self._key(MARKER))
        except FileNotFoundError:
            raise StoreUnavailable("The store's marker is missing in the bucket") from None

    @cached_property
    def link_origin(self) -> str | None:
        if not self._settings.store_redirect:
            return None
        link = urlsplit(BucketFile(self._files, self._linked or self._files, self._path(MARKER), 1).link("text/plain"))
        return f"{link.scheme}://{link.netloc}"

    def _owned(self, area: str, after: str) -> "Iterator[_Object]":
        start = f"{self._key(area, after)}0" if after else ""  # "0" follows "/", so this is after all keys of the job
        for one in self._objects.listed(self._key(area, ""), after=start):
            job_id, _, rest = one["Key"].removeprefix(self._key(area, "")).partition("/")
            attempt, inside, _ = rest.partition("/")
            number = int(attempt) if inside and attempt.isdigit() else None
            checkpoint = area == ARTIFACTS and attempt == CHECKPOINT
            yield _Object(job_id, number, one["LastModified"], checkpoint)

    def _marker(self) -> str | None:
        try:
            with answers():
                content: bytes = self._files.cat_file(self._path(MARKER))
        except FileNotFoundError:
            return None
        return content.decode("ascii", "replace")

    def _key(self, *parts: str) -> str:
        return self._prefix + "/".join(parts)

    def _path(self, *parts: str) -> str:
        return self._objects.at(self._key(*parts))


@dataclass(frozen=True)
class _Object:
    job_id: str
    attempt: int | None  # None for an input or a checkpoint
    modified: datetime
    checkpoint: bool


def _piece(job_id: str, attempt: int) -> str:
    """Return the name of this process's folder for an attempt.

    Another one may hold the same: a process that has fetched inputs for an attempt which it did not get.
    """
    return f"{job_id}.{attempt}.{os.getpid()}"
