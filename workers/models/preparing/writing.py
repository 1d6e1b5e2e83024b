"""Write the copies that a snapshot lacks: converted by a child process, verified, and linked one file after another.

A file gets its name after it was read again and found right, so an attempt that is killed or stopped leaves only whole
files, and the next one continues after them.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from shared.errors import CannotPrepare, StoreFull
from shared.models import prepared
from shared.models.prepared import Copy, Form
from shared.models.verification import is_oid
from shared.storage.disk import sync_folder
from workers.models.fetch.layout import RepoCache, answering_full, free_bytes
from workers.models.preparing.converter import Converter
from workers.models.preparing.plan import Shard, Work, lacking

_PIECE_BYTES = 4 << 20
_TRIES = 2  # for a file that is not on the disk as it was written


@dataclass(frozen=True)
class Progress:
    """Bytes of the copies that are written, or were there; and of all that the form needs."""

    component: str
    bytes_done: int
    bytes_total: int
    bytes_per_second: float


@dataclass(frozen=True)
class Written:
    """What one call wrote. Bytes of copies."""

    copies: tuple[Copy, ...]
    bytes_written: int
    bytes_shared: int  # linked to equal files of other models
    seconds: float


def prepare(
    cache: RepoCache,
    snapshot: Path,
    form: Form,
    min_free_bytes: int,
    *,
    report: Callable[[Progress], None],
    check: Callable[[], None],
    complete: Callable[[Copy], None] = lambda _: None,
) -> Written:
    """Write the copies for that form that the snapshot lacks. `complete` is called after each one.

    `check` may raise to stop, which takes effect within a file. Raises what it raises, StoreFull, CannotPrepare.
    """
    cache.create()
    lock = locked(cache, prepared.lock_name(snapshot.name), check)
    try:
        return _Writing(cache, snapshot, min_free_bytes, report, check).write(form, complete)
    except (ValueError, FileNotFoundError) as error:
        raise CannotPrepare(f"the published weights cannot be read: {error}") from error
    finally:
        lock.release()


class _Writing:
    def __init__(
        self,
        cache: RepoCache,
        snapshot: Path,
        min_free_bytes: int,
        report: Callable[[Progress], None],
        check: Callable[[], None],
    ) -> None:
        self._cache = cache
        self._snapshot = snapshot
        self._min_free_bytes = min_free_bytes
        self._report = report
        self._check = check
        self._began = time.monotonic()
        self._total = self._done = self._written = self._shared = 0

    def write(self, form: Form, complete: Callable[[Copy], None]) -> Written:
        works = lacking(self._snapshot, form)
        self._total = sum(work.bytes for work in works)
        copies = []
        with Converter() as converter:
            for work in works:
                if not self._take_over(work):
                    self._check_room(work)
                    for shard in work.shards:
                        self._shard(converter, work, shard)
                copy = self._finish(work)
                complete(copy)
                copies.append(copy)
        return Written(tuple(copies), self._written, self._shared, time.monotonic() - self._began)

    def _shard(self, converter: Converter, work: Work, shard: Shard) -> None:
        before = self._done
        place = self._snapshot / work.folder / shard.name
        if not self._is_there(place):
            self._write(converter, work, shard, before)
            self._written += place.stat().st_size
        self._done = before + shard.bytes
        self._tell(work)

    def _write(self, converter: Converter, work: Work, shard: Shard, before: int) -> None:
        """Write one file, under the lock by which others know that its partial blob is being written."""
        name = hashlib.sha256(f"{work.key} {shard.name}".encode()).hexdigest()
        partial = self._cache.partial(name)
        task = {
            "component": work.component,
            "form": work.form,
            "config": str(work.config),
            "source": str(shard.source),
            "target": str(partial),
        }
        lock = locked(self._cache, name, self._check)
        try:
            sha256 = self._converted(converter, task, partial, work, before)
            with answering_full():
                partial.chmod(0o644)
                os.replace(partial, self._cache.blob(sha256))
                sync_folder(self._cache.folder / "blobs")
                self._link(f"{work.folder}/{shard.name}", sha256)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            lock.release()

    def _converted(self, converter: Converter, task: dict[str, str], partial: Path, work: Work, before: int) -> str:
        """Have the file written. Return its sha256, which was computed before the write and again from the disk."""

        def report(done: int) -> None:
            self._done = before + done
            self._tell(work)

        for _ in range(_TRIES):
            size, sha256 = converter.convert(task, report, self._check)
            if partial.stat().st_size == size and self._digest(partial) == sha256:
                return sha256
        raise CannotPrepare(f"{work.component}: a file was twice not on the disk as it was written")

    def _take_over(self, work: Work) -> bool:
        """Link the files of an equal copy of another model, and return whether there is one. They share their bytes."""
        pattern = f"models--*/snapshots/*/{work.folder}/{prepared.MANIFEST}"
        for manifest in sorted(self._cache.models_dir.glob(pattern)):
            snapshot = manifest.parents[4]
            copy = prepared.read(snapshot, work.component, work.form, work.key)
            if snapshot == self._snapshot or copy is None:
                continue
            if all(self._share(snapshot / file.path, file.sha256) for file in copy.files):
                for file in copy.files:
                    self._link(file.path, file.sha256)
                self._shared += copy.bytes
                self._done += work.bytes
                self._tell(work)
                return True
        return False

    def _share(self, source: Path, sha256: str) -> bool:
        """Make another model's file a blob of this repository. Return False if it is damaged or cannot be linked."""
        blob = self._cache.blob(sha256)
        if blob.exists() and self._digest(blob) == sha256:
            return True
        if self._digest(source) != sha256:
            return False
        try:
            blob.unlink(missing_ok=True)
            os.link(source.resolve(), blob)
        except OSError:  # another file system, or one without hard links
            return False
        return True

    def _finish(self, work: Work) -> Copy:
        """Write the manifest, and remove copies that this one replaces."""
        files = {}
        for shard in work.shards:
            place = self._snapshot / work.folder / shard.name
            files[shard.name] = (place.stat().st_size, place.readlink().name)
        content = prepared.as_manifest(work.sources, files)
        sha256 = hashlib.sha256(content).hexdigest()
        partial = self._cache.partial(sha256)
        with answering_full():
            with partial.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, self._cache.blob(sha256))
            self._link(f"{work.folder}/{prepared.MANIFEST}", sha256)
            sync_folder(self._snapshot / work.folder)
        copy = prepared.read(self._snapshot, work.component, work.form, work.key)
        if copy is None:
            raise CannotPrepare(f"the copy of {work.component} has lost a file")
        drop_replaced(self._snapshot, copy)
        return copy

    def _link(self, path: str, sha256: str) -> None:
        self._cache.link(self._snapshot.name, path, sha256)

    def _is_there(self, place: Path) -> bool:
        """Return whether an earlier attempt has finished that file."""
        return place.is_symlink() and is_oid(place.readlink().name) and place.is_file()

    def _digest(self, place: Path) -> str:
        digest = hashlib.sha256()
        with place.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                self._check()
        return digest.hexdigest()

    def _check_room(self, work: Work) -> None:
        finished = sum(
            shard.bytes for shard in work.shards if self._is_there(self._snapshot / work.folder / shard.name)
        )
        needed, free = work.bytes - finished, free_bytes(self._cache.folder)
        if free < needed + self._min_free_bytes:
            full = StoreFull(
                f"the {work.form} copy of {self._cache.repo}/{work.component} needs {needed / 1e6:.0f} MB more, and "
                f"{self._min_free_bytes / 1e6:.0f} MB must stay free, but {free / 1e6:.0f} MB are free"
            )
            full.needed_bytes = needed
            raise full

    def _tell(self, work: Work) -> None:
        rate = (self._done - self._shared) / max(time.monotonic() - self._began, 0.001)
        self._report(Progress(work.component, min(self._done, self._total), self._total, rate))


def locked(cache: RepoCache, name: str, check: Callable[[], None]) -> FileLock:
    """Return that lock of the repository. Waits while another process holds it."""
    while (lock := cache.try_lock(name, 0.2)) is None:
        check()
    return lock


def drop_replaced(snapshot: Path, copy: Copy) -> None:
    """Remove the links of copies of the same component and form with another key or by an older recipe.

    Their blobs are left to the next cleanup, because other snapshots may use them.
    """
    for folder in sorted((snapshot / prepared.FOLDER).glob(f"{copy.form}-*/{copy.component}/*")):
        if folder != copy.folder:
            shutil.rmtree(folder)
