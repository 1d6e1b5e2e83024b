"""The objects of one bucket: upload, list and delete them, and abort uploads that were stopped.

The server verifies the bytes: each request is signed and carries a checksum of its body, and a file's length is checked
afterwards.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.callbacks import Callback
from s3fs import S3FileSystem

from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.storage.s3 import answers

log = logging.getLogger("wanworks.store")

_REQUEST_SECONDS = 10  # for requests without a file
SHUTDOWN_SECONDS = 3  # for the requests of a stopping attempt; the sweep removes the rest
_PARTS_AT_ONCE = 4
_CHECK_SECONDS = 0.2  # how often an upload checks whether to stop
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.5, 15.0
_DELETED_AT_ONCE = 1000  # the limit of S3


class BucketObjects:
    """Requests for the objects of one bucket. Keys are whole: with the prefix of the store."""

    def __init__(self, files: S3FileSystem, bucket: str, settings: Settings) -> None:
        self.files = files
        self._bucket = bucket
        self._part_bytes = settings.store_part_mb * 1_000_000
        self._patience_seconds = settings.store_patience_seconds

    def at(self, key: str) -> str:
        """Return the object's path for fsspec."""
        return f"{self._bucket}/{key}"

    def send(self, file: Path, key: str, check: Callable[[], None], moved: Callable[[], None]) -> None:
        """Upload a file. Raises StoreUnavailable after `store_patience_seconds` of retries."""
        deadline, pause = None, _FIRST_PAUSE_SECONDS
        while True:
            try:
                self.send_once(file, key, check, moved)
                return
            except StoreUnavailable as error:
                now = time.monotonic()
                deadline = deadline or now + self._patience_seconds
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

    def send_once(self, file: Path, key: str, check: Callable[[], None], moved: Callable[[], None]) -> None:
        """Upload a file, in parts if it is large. If it is stopped, abort the upload if the bucket can be reached."""
        sent, length = Callback(), file.stat().st_size
        sending = self.files._put_file(  # the asynchronous side of fsspec's `put_file`, which can be stopped
            str(file),
            self.at(key),
            callback=sent,
            chunksize=self._part_bytes,
            max_concurrency=_PARTS_AT_ONCE,
        )
        check()
        future = asyncio.run_coroutine_threadsafe(sending, self.files.loop)
        reported = 0
        try:
            while not wait([future], timeout=_CHECK_SECONDS).done:
                check()
                if sent.value != reported:
                    reported = sent.value
                    moved()
            with answers():
                future.result()
                size = self.files.info(self.at(key), refresh=True)["size"]
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
            self.abort(key, 0.0, SHUTDOWN_SECONDS)
        except StoreUnavailable as error:
            log.warning("parts of %s may remain until the sweep removes them: %s", key, error)

    def abort(self, prefix: str, older_than_seconds: float, patience_seconds: float = _REQUEST_SECONDS) -> int:
        """Abort uploads under a prefix that began so long ago, and return their number. Raises StoreUnavailable."""
        count = 0
        more: dict[str, str] = {}
        while True:
            try:
                page = self.call("list_multipart_uploads", patience_seconds, Prefix=prefix, **more)
            except FileNotFoundError:
                return count  # rclone's reply if there are none
            for upload in page.get("Uploads", ()):
                if upload["Key"].startswith(prefix) and age_seconds(upload["Initiated"]) >= older_than_seconds:
                    try:
                        known = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                        self.call("abort_multipart_upload", patience_seconds, **known)
                    except FileNotFoundError:
                        continue  # finished or aborted since
                    count += 1
            if not page.get("IsTruncated"):
                return count
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def drop(self, prefix: str, patience_seconds: float = _REQUEST_SECONDS) -> None:
        """Delete the objects under a prefix. Raises StoreUnavailable if one remains."""
        keys = [one["Key"] for one in self.listed(prefix, patience_seconds)]
        if left := self.delete(keys, patience_seconds):
            raise next(iter(left.values()))

    def delete(self, keys: Sequence[str], patience_seconds: float = _REQUEST_SECONDS) -> dict[str, StoreUnavailable]:
        """Delete objects. Return those that remain, and why."""
        left: dict[str, StoreUnavailable] = {}
        for first in range(0, len(keys), _DELETED_AT_ONCE):
            batch_keys = keys[first : first + _DELETED_AT_ONCE]
            batch = {"Objects": [{"Key": key} for key in batch_keys], "Quiet": True}
            try:
                errors = self.call("delete_objects", patience_seconds, Delete=batch).get("Errors", ())
            except StoreUnavailable as error:
                left |= dict.fromkeys(batch_keys, error)
                continue
            for one in errors:
                message = f"The bucket did not delete {one.get('Key')}: {one.get('Code')}"
                left[str(one.get("Key"))] = StoreUnavailable(message)
        return left

    def listed(
        self, prefix: str, patience_seconds: float = _REQUEST_SECONDS, after: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Yield the objects under a prefix after the key `after`, in the order of keys."""
        more: dict[str, str] = {"StartAfter": after} if after else {}
        while True:
            try:
                page = self.call("list_objects_v2", patience_seconds, Prefix=prefix, **more)
            except FileNotFoundError as error:
                raise StoreUnavailable("The bucket no longer exists") from error
            yield from (one for one in page.get("Contents", ()) if one["Key"] > after)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def call(self, method: str, patience_seconds: float = _REQUEST_SECONDS, **given: Any) -> dict[str, Any]:
        """Make one S3 request. Raises StoreUnavailable, and FileNotFoundError for a missing object or bucket."""
        with answers():
            answer: dict[str, Any] = self.files.call_s3(method, Bucket=self._bucket, timeout=patience_seconds, **given)
        return answer


def age_seconds(moment: datetime) -> float:
    """Return how long ago the moment was."""
    return (datetime.now(UTC) - moment).total_seconds()
