"""The store as a bucket: S3, or a compatible server, through fsspec's s3fs.

An attempt writes to the local disk, and its files are uploaded before it may succeed. The server verifies the bytes:
each request is signed and carries a checksum of its body, and a file's length is checked afterwards. The sweep removes
files of attempts that did not win, which no row names, and unfinished uploads.
"""

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from fsspec.callbacks import Callback

from shared.errors import NotFound, StoreUnavailable
from shared.settings import Settings
from shared.storage import s3
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

_REQUEST_SECONDS = 10  # for requests without a file
_SHUTDOWN_SECONDS = 3  # for the requests of a stopping attempt; the sweep removes the rest
_PARTS_AT_ONCE = 4
_CHECK_SECONDS = 0.2  # how often an upload checks whether to stop
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.5, 15.0
_DELETED_AT_ONCE = 1000  # the limit of S3
_LISTED_AT_ONCE = 16  # parallel listings when many jobs are removed


class BucketStore:
    """One prefix of one bucket."""

    def __init__(self, settings: Settings) -> None:
        place = urlsplit(settings.store_url or "")
        self._bucket = place.netloc
        self._prefix = f"{place.path.strip('/')}/" if place.path.strip("/") else ""
        self._settings = settings
        self._part_bytes = settings.store_part_mb * 1_000_000
        self._scratch = Scratch(settings.home / "scratch")
        self._files = s3.files(settings, settings.store_endpoint)
        self._linked = s3.files(settings, settings.store_public_endpoint) if settings.store_public_endpoint else None

    @classmethod
    def opened(cls, settings: Settings, agreed: Callable[[], str], *, create: bool) -> Self:
        """Open the store. Raises StoreMismatch, StoreUnavailable, and ConfigurationError if access is impossible."""
        store = cls(settings)
        place = str(settings.store_url)
        installation = agreed()
        with refusals(place):
            store._call("head_bucket")
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
            self._send(folder / name, self._key(ARTIFACTS, job_id, str(attempt), name), check, moved)
        self._scratch.drop(_piece(job_id, attempt))

    def artifact(self, job_id: str, attempt: int, name: str) -> BucketFile:
        path = self._path(ARTIFACTS, job_id, str(attempt), artifact_name(name))
        return BucketFile(self._files, self._linked or self._files, path, self._settings.store_link_seconds)

    def put_checkpoint(self, job_id: str, attempt: int, file: Path, check: Callable[[], None]) -> None:
        """Try once: the next checkpoint comes soon, and nothing waits for this one."""
        self._send_once(file, self._key(ARTIFACTS, job_id, CHECKPOINT, str(attempt)), check, lambda: None)

    def fetch_checkpoint(self, job_id: str, attempt: int, to: Path) -> None:
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        try:
            with answers(), full_disk_as_store_full():
                self._files.get_file(self._path(ARTIFACTS, job_id, CHECKPOINT, str(attempt)), str(to))
        except FileNotFoundError:
            raise NotFound("checkpoint", f"{job_id}/{attempt}") from None

    def drop_checkpoints(self, job_id: str, of: Callable[[int], bool] = every) -> None:
        prefix = self._key(ARTIFACTS, job_id, CHECKPOINT, "")
        names = [one["Key"].removeprefix(prefix) for one in self._listed(prefix)]
        keys = [f"{prefix}{name}" for name in names if not name.isdigit() or of(int(name))]
        if left := self._delete(keys):
            raise next(iter(left.values()))

    def put_lora(self, sha256: str, file: Path, check: Callable[[], None]) -> None:
        self._send(file, self._key(LORAS, lora_name(sha256)), check, lambda: None)

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
        if left := self._delete([self._key(LORAS, lora_name(sha256))]):
            raise next(iter(left.values()))

    def loras(self, older_than_seconds: float) -> list[str]:
        found = self._listed(self._key(LORAS, ""))
        old = (one["Key"] for one in found if _age_seconds(one["LastModified"]) >= older_than_seconds)
        return [Path(key).stem for key in old if key.endswith(".safetensors")]

    def drop_attempt(self, job_id: str, attempt: int) -> None:
        self._scratch.drop(_piece(job_id, attempt))
        prefix = self._key(ARTIFACTS, job_id, str(attempt), "")
        self._drop(prefix, _SHUTDOWN_SECONDS)
        self._abort(prefix, 0.0, _SHUTDOWN_SECONDS)

    def drop_job(self, job_id: str) -> None:
        for area in (INPUTS, ARTIFACTS):
            self._drop(self._key(area, job_id, ""))

    def drop_jobs(self, job_ids: Sequence[str]) -> dict[str, StoreUnavailable]:
        """List in parallel, and delete a thousand objects with each request."""
        failed: dict[str, StoreUnavailable] = {}
        owners: dict[str, str] = {}

        def keys_of(job_id: str) -> list[str] | StoreUnavailable:
            try:
                both = (self._listed(self._key(area, job_id, "")) for area in (INPUTS, ARTIFACTS))
                return [one["Key"] for area in both for one in area]
            except StoreUnavailable as error:
                return error

        with ThreadPoolExecutor(_LISTED_AT_ONCE, "listing") as pool:
            for job_id, keys in zip(job_ids, pool.map(keys_of, job_ids), strict=True):
                if isinstance(keys, StoreUnavailable):
                    failed[job_id] = keys
                else:
                    owners |= dict.fromkeys(keys, job_id)
        for key, error in self._delete(list(owners)).items():
            failed.setdefault(owners[key], error)
        return failed

    def orphaned_files(self, older_than_seconds: float, after: str = "") -> Iterator[OrphanedFiles]:
        """Read one listing of everything after `after`, page by page."""
        both = merge(self._owned(INPUTS, after), self._owned(ARTIFACTS, after), key=lambda one: one.job_id)
        for job_id, group in groupby(both, key=lambda one: one.job_id):
            objects = list(group)
            if _age_seconds(max(one.modified for one in objects)) > older_than_seconds:
                attempts = {one.attempt for one in objects if one.attempt is not None}
                checkpoint = any(one.checkpoint for one in objects)
                yield OrphanedFiles(job_id, tuple(sorted(attempts)), checkpoint)

    def drop_unfinished(self, older_than_seconds: float) -> int:
        return self._abort(self._prefix, older_than_seconds)

    def attempts(self, job_id: str) -> list[int]:
        parts = (one["Key"].split("/")[-2] for one in self._listed(self._key(ARTIFACTS, job_id, "")))
        return sorted({int(part) for part in parts if part.isdigit()})

    def allocated_bytes(self, job_id: str) -> int:
        areas = (self._listed(self._key(area, job_id, "")) for area in (INPUTS, ARTIFACTS))
        return sum(one["Size"] for area in areas for one in area)

    def is_beside(self, folder: Path) -> bool:
        return False

    def ask(self) -> None:
        try:
            self._call("head_object", Key=self._key(MARKER))
        except FileNotFoundError:
            raise StoreUnavailable("The store's marker is missing in the bucket") from None

    @cached_property
    def link_origin(self) -> str | None:
        if not self._settings.store_redirect:
            return None
        link = urlsplit(BucketFile(self._files, self._linked or self._files, self._path(MARKER), 1).link("text/plain"))
        return f"{link.scheme}://{link.netloc}"

    def _send(self, file: Path, key: str, check: Callable[[], None], moved: Callable[[], None]) -> None:
        """Upload a file. Raises StoreUnavailable after `store_patience_seconds` of retries."""
        deadline, pause = None, _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._send_once(file, key, check, moved)
                return
            except StoreUnavailable as error:
                now = time.monotonic()
                deadline = deadline or now + self._settings.store_patience_seconds
                if now + pause > deadline:
                    raise
                log.warning(
                    "%s could not be uploaded; the next try is in %.1f s: %r", key, pause, error.__cause__ or error
                )
            retry_at = time.monotonic() + pause
            while time.monotonic() < retry_at:
                check()
                time.sleep(_CHECK_SECONDS)
            pause = min(2 * pause, _LAST_PAUSE_SECONDS)

    def _send_once(self, file: Path, key: str, check: Callable[[], None], moved: Callable[[], None]) -> None:
        """Upload a file, in parts if it is large. If it is stopped, abort the upload if the bucket can be reached."""
        sent, length = Callback(), file.stat().st_size
        sending = self._files._put_file(  # the asynchronous side of fsspec's `put_file`, which can be stopped
            str(file),
            self._at(key),
            callback=sent,
            chunksize=self._part_bytes,
            max_concurrency=_PARTS_AT_ONCE,
        )
        check()
        future = asyncio.run_coroutine_threadsafe(sending, self._files.loop)
        reported = 0
        try:
            while not wait([future], timeout=_CHECK_SECONDS).done:
                check()
                if sent.value != reported:
                    reported = sent.value
                    moved()
            with answers():
                future.result()
                size = self._files.info(self._at(key), refresh=True)["size"]
        except BaseException as error:
            future.cancel()
            self._forget(key, length)
            if isinstance(error, FileNotFoundError):  # the bucket no longer has the upload, or is gone
                raise StoreUnavailable() from error
            raise
        if size != length:
            raise StoreUnavailable(f"The bucket has {size} of the file's {length} bytes")
        moved()

    def _forget(self, key: str, length: int) -> None:
        """Abort a stopped upload, because its parts are invisible but cost money."""
        if length < 2 * self._part_bytes:
            return
        try:
            self._abort(key, 0.0, _SHUTDOWN_SECONDS)
        except StoreUnavailable as error:
            log.warning("parts of %s may remain until the sweep removes them: %s", key, error)

    def _abort(self, prefix: str, older_than_seconds: float, patience_seconds: float = _REQUEST_SECONDS) -> int:
        count = 0
        more: dict[str, str] = {}
        while True:
            try:
                page = self._call("list_multipart_uploads", patience_seconds, Prefix=prefix, **more)
            except FileNotFoundError:
                return count  # rclone's reply if there are none
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(prefix) and _age_seconds(upload["Initiated"]) >= older_than_seconds:
                    try:
                        known = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                        self._call("abort_multipart_upload", patience_seconds, **known)
                    except FileNotFoundError:
                        continue  # finished or aborted since
                    count += 1
            if not page.get("IsTruncated"):
                return count
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _drop(self, prefix: str, patience_seconds: float = _REQUEST_SECONDS) -> None:
        keys = [one["Key"] for one in self._listed(prefix, patience_seconds)]
        if left := self._delete(keys, patience_seconds):
            raise next(iter(left.values()))

    def _delete(self, keys: Sequence[str], patience_seconds: float = _REQUEST_SECONDS) -> dict[str, StoreUnavailable]:
        """Delete objects. Return those that remain, and why."""
        left: dict[str, StoreUnavailable] = {}
        for first in range(0, len(keys), _DELETED_AT_ONCE):
            batch_keys = keys[first : first + _DELETED_AT_ONCE]
            batch = {"Objects": [{"Key": key} for key in batch_keys], "Quiet": True}
            try:
                errors = self._call("delete_objects", patience_seconds, Delete=batch).get("Errors", ())
            except StoreUnavailable as error:
                left |= dict.fromkeys(batch_keys, error)
                continue
            for one in errors:
                message = f"The bucket did not delete {one.get('Key')}: {one.get('Code')}"
                left[str(one.get("Key"))] = StoreUnavailable(message)
        return left

    def _owned(self, area: str, after: str) -> "Iterator[_Object]":
        start = f"{self._key(area, after)}0" if after else ""  # "0" follows "/", so this is after all keys of the job
        for one in self._listed(self._key(area, ""), after=start):
            job_id, _, rest = one["Key"].removeprefix(self._key(area, "")).partition("/")
            attempt, inside, _ = rest.partition("/")
            number = int(attempt) if inside and attempt.isdigit() else None
            checkpoint = area == ARTIFACTS and attempt == CHECKPOINT
            yield _Object(job_id, number, one["LastModified"], checkpoint)

    def _listed(
        self, prefix: str, patience_seconds: float = _REQUEST_SECONDS, after: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Yield the objects under a prefix after the key `after`, in the order of keys."""
        more: dict[str, str] = {"StartAfter": after} if after else {}
        while True:
            try:
                page = self._call("list_objects_v2", patience_seconds, Prefix=prefix, **more)
            except FileNotFoundError as error:
                raise StoreUnavailable("The bucket no longer exists") from error
            yield from (one for one in page.get("Contents", ()) if one["Key"] > after)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _marker(self) -> str | None:
        try:
            with answers():
                content: bytes = self._files.cat_file(self._path(MARKER))
        except FileNotFoundError:
            return None
        return content.decode("ascii", "replace")

    def _call(self, method: str, patience_seconds: float = _REQUEST_SECONDS, **given: Any) -> dict[str, Any]:
        """Make one S3 request. Raises StoreUnavailable, and FileNotFoundError for a missing object or bucket."""
        with answers():
            answer: dict[str, Any] = self._files.call_s3(method, Bucket=self._bucket, timeout=patience_seconds, **given)
        return answer

    def _key(self, *parts: str) -> str:
        return self._prefix + "/".join(parts)

    def _path(self, *parts: str) -> str:
        return self._at(self._key(*parts))

    def _at(self, key: str) -> str:
        return f"{self._bucket}/{key}"


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


def _age_seconds(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
