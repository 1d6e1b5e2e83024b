"""Fetch one file from the hub to its blob: append what is missing, verify the checksum, rename.

It resumes where an earlier attempt stopped, retries after network errors, and fails only if a retry cannot help. Bytes
are only appended to the partial file, so the transfer may be interrupted at any moment.
"""

import os
import random
import re
import threading
import time
from dataclasses import dataclass, field

import httpx2
from filelock import FileLock
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils._headers import build_hf_headers

from shared.errors import ChecksumMismatch, HubUnavailable
from workers.models.fetch.body import Body, Broken, Wire
from workers.models.fetch.client import offline, refusal, retry_after, said, through
from workers.models.fetch.digest import Digest
from workers.models.fetch.layout import RepoCache, answering_full
from workers.models.fetch.limiter import Bucket, piece_bytes
from workers.models.fetch.plan import FetchPlan, Limits, RemoteFile
from workers.models.fetch.writing import Appender

_FIRST_WAIT, _LONGEST_WAIT = 0.25, 10.0  # seconds between two tries that received nothing
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass
class Shared:
    """The shared state of one download's files."""

    plan: FetchPlan
    cache: RepoCache
    wire: Wire
    own_bucket: Bucket
    node_bucket: Bucket | None
    limits: Limits = field(default_factory=Limits)
    piece: int = piece_bytes(None)  # bytes to read at once
    done: dict[str, int] = field(default_factory=dict)  # bytes on disk by oid
    suspect: dict[str, int | None] = field(default_factory=dict)  # the inodes of blobs to be fetched again, by oid
    received: int = 0  # bytes from the hub
    last_byte: float = field(default_factory=time.monotonic)
    hold_until: float = 0.0  # no request before this time, as the hub requested
    refetched: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def came(self, oid: str, count: int, done: int) -> None:
        """Record that `count` bytes were received; `done` bytes of the file are on disk."""
        with self.lock:
            self.received += count
            self.done[oid] = done
        if count:
            self.last_byte = time.monotonic()

    def pay(self, count: int) -> None:
        """Wait as long as the bandwidth limits require."""
        limits = self.limits
        wait = 0.0
        if limits.download_mbps is not None:
            wait = self.own_bucket.take(count, limits.download_mbps)
        if limits.node_mbps is not None and self.node_bucket is not None:
            wait = max(wait, self.node_bucket.take(count, limits.node_mbps))
        if wait > 0:
            self.wire.rest(wait)

    def obey(self, limits: Limits) -> None:
        """Set the limits that apply from now on."""
        given = [mbps for mbps in (limits.download_mbps, limits.node_mbps) if mbps is not None]
        self.limits = limits
        self.piece = piece_bytes(min(given, default=None))
        self.wire.expect(min(given, default=None))


def fetch_file(shared: Shared, file: RemoteFile) -> None:
    """Fetch the file's blob. Raises subclasses of JobFailed, HubUnavailable, StoreFull, and Stopped."""
    lock = _locked(shared, file.oid)
    try:
        if is_whole(shared.cache, file) and inode(shared.cache, file.oid) != shared.suspect.get(file.oid):
            shared.done[file.oid] = file.size  # another process has just fetched it
            return
        with answering_full():
            partial = os.open(shared.cache.partial(file.oid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _fill(shared, file, partial) != file.oid:
                shared.refetched.append(file.path)
                _empty(shared, file, partial)
                if _fill(shared, file, partial) != file.oid:
                    _empty(shared, file, partial)
                    raise ChecksumMismatch(f"{file.path} was received twice with a wrong checksum")
            with answering_full():
                os.fsync(partial)
                os.replace(shared.cache.partial(file.oid), shared.cache.blob(file.oid))
        finally:
            os.close(partial)
    finally:
        lock.release()


def is_whole(cache: RepoCache, file: RemoteFile) -> bool:
    """Return whether the blob exists in the right size. Its content was verified before it got its name."""
    try:
        return cache.blob(file.oid).stat().st_size == file.size
    except FileNotFoundError:
        return False


def inode(cache: RepoCache, oid: str) -> int | None:
    """Return the blob's inode; None without a blob. A blob that was fetched again has another one."""
    try:
        return cache.blob(oid).stat().st_ino
    except FileNotFoundError:
        return None


def _locked(shared: Shared, oid: str) -> FileLock:
    while (lock := shared.cache.try_lock(oid, 0.2)) is None:
        shared.last_byte = time.monotonic()  # the process that holds the lock receives the bytes
        shared.wire.check()
    return lock


def _empty(shared: Shared, file: RemoteFile, partial: int) -> None:
    os.ftruncate(partial, 0)
    shared.done[file.oid] = 0


def _fill(shared: Shared, file: RemoteFile, partial: int) -> str:
    """Fetch what the partial file lacks. Return the checksum of the whole file."""
    if os.fstat(partial).st_size > file.size:
        os.ftruncate(partial, 0)
    offset = shared.done[file.oid] = os.fstat(partial).st_size
    digest = Digest(partial, file.size, file.lfs, offset)
    end = Appender(shared.cache.partial(file.oid), partial, offset, digest.wrote)
    wait = _FIRST_WAIT
    try:
        while end.offset < file.size:
            before = end.offset
            asked: float | None = None
            try:
                _hold(shared)
                _request(shared, file, end)
                continue
            except _Refused as error:
                reason, asked = str(error), error.seconds
            except Broken as error:
                reason = str(error)
            except OfflineModeIsEnabled:
                raise HubUnavailable(offline()) from None
            except (httpx2.HTTPError, OSError) as error:
                shared.wire.check()
                if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
                    raise
                reason = said(error)
            wait = _FIRST_WAIT if end.offset > before else min(2 * wait, _LONGEST_WAIT)
            _rest(shared, max(asked or 0.0, wait * random.uniform(0.7, 1.0)), reason)
        while (result := digest.result(0.2)) is None:
            shared.wire.check()
        return result
    finally:
        end.close()
        digest.stop()


class _Refused(Exception):
    """A response without the file; retry after `seconds`."""

    def __init__(self, reason: str, seconds: float | None) -> None:
        super().__init__(reason)
        self.seconds = seconds


def _request(shared: Shared, file: RemoteFile, end: Appender) -> None:
    """Send one request for the rest of the file. However it ends, received bytes are on disk afterwards."""
    plan = shared.plan
    headers = build_hf_headers(token=plan.token or False, library_name="wanworks")
    headers["Accept-Encoding"] = "identity"
    if end.offset:
        headers["Range"] = f"bytes={end.offset}-"
    # Always request the commit's own address, because the link of a redirect expires.
    url = hf_hub_url(plan.repo, file.path, revision=plan.sha, endpoint=plan.endpoint)
    with shared.wire.get(url, headers, plan.quiet_seconds) as body:
        skip = _begins_at(shared, body, file, end.offset)
        try:
            while end.reached < file.size:
                count = body.read_into(end.space(min(shared.piece, skip or file.size - end.reached)))
                if count == 0:
                    raise Broken("ends a file too early")
                if skip:
                    skip -= count
                else:
                    end.received(count)
                shared.came(file.oid, count, end.offset)
                shared.pay(count)
                shared.wire.check()
        finally:
            end.flush()
            shared.came(file.oid, 0, end.offset)


def _begins_at(shared: Shared, body: Body, file: RemoteFile, offset: int) -> int:
    """Return how many bytes of the body precede `offset`. Raises for a response that is not the file."""
    if body.encoded:
        raise _Refused("sends an encoded body although none was accepted", None)
    if body.status == 206:
        match = _RANGE.match(body.headers.get("Content-Range", ""))
        if match is None or int(match[1]) > offset or match[2] not in ("*", str(file.size)):
            raise _Refused("answers with another range than requested", None)
        return offset - int(match[1])
    if body.status == 200:
        return offset  # it ignores ranges: what is here already comes once more
    seconds = retry_after(body.headers)
    if seconds is not None:
        shared.hold_until = max(shared.hold_until, time.monotonic() + seconds)
    if not body.redirected:
        refused = refusal(body.status, body.headers, shared.plan.repo, shared.plan.token is not None)
        if refused is not None and body.status != 416:
            raise refused
    raise _Refused(f"answers {body.status}", seconds)


def _hold(shared: Shared) -> None:
    while (left := shared.hold_until - time.monotonic()) > 0:
        _rest(shared, left, "asks to be left alone")


def _rest(shared: Shared, seconds: float, reason: str) -> None:
    """Wait, within the download's patience."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if time.monotonic() - shared.last_byte > shared.plan.patience_seconds:
            asked = through(shared.plan.endpoint)
            raise HubUnavailable(f"the hub {reason}{asked}; no byte came for {shared.plan.patience_seconds:.0f} s")
        shared.wire.rest(min(left, 0.2))
