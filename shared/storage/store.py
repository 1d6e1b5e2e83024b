"""The store of artifacts and inputs, readable by every node: a directory or a bucket, by setting.

Its users do not know which it is, except the web process, which may redirect clients to a bucket. The bucket's
libraries are loaded only if a bucket is set.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from shared.storage.layout import OrphanedFiles, every


class InBucket(Protocol):
    """An artifact in a bucket."""

    def link(self, content_type: str, at_most_seconds: int | None = None) -> str:
        """Return a URL that serves it without further authentication, for `store_link_seconds` or less."""
        ...

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `end`. The first piece is read before the return.

        Raises NotFound and StoreUnavailable.
        """
        ...


class Store(Protocol):
    """A store. Open it with `open_store`, which checks the marker. Every method may raise StoreUnavailable."""

    def put_input(self, job_id: str, name: str, content: bytes) -> str:
        """Write an input durably. Return its name in the store. Raises StoreFull, and then leaves nothing."""
        ...

    def copy_input(self, reference: str, job_id: str, name: str | None = None) -> str:
        """Copy an input for another job, under another `name` if one is given. Return its name. Raises NotFound."""
        ...

    def read_input(self, reference: str) -> bytes:
        """Return the content of an input. Raises NotFound."""
        ...

    def input_file(self, reference: str, job_id: str, attempt: int) -> Path:
        """Return the input as a local file, which exists while that attempt of the job runs. Raises NotFound.

        The input is the job's own, or an artifact of another one: see `layout.input_path`.
        """
        ...

    def release_inputs(self, job_id: str, attempt: int) -> None:
        """Remove local copies of inputs, so that another process of this machine can call `attempt_dir`."""
        ...

    def attempt_dir(self, job_id: str, attempt: int) -> Path:
        """Return a new, empty local folder for one attempt's artifacts. Raises StoreFull."""
        ...

    def keep(
        self,
        job_id: str,
        attempt: int,
        names: Collection[str],
        check: Callable[[], None],
        moved: Callable[[], None],
    ) -> None:
        """Store these files of the attempt's folder durably.

        `check` is called several times a second and may raise; `moved` is called on progress. If `check` raises, or
        StoreUnavailable is raised after `store_patience_seconds`, the caller must call `drop_attempt`.
        """
        ...

    def artifact(self, job_id: str, attempt: int, name: str) -> Path | InBucket:
        """Return the artifact. Raises NotFound, also for an invalid name. A bucket is first asked on reading."""
        ...

    def put_checkpoint(self, job_id: str, attempt: int, file: Path, check: Callable[[], None]) -> None:
        """Store a copy of the checkpoint durably, in place of an earlier one of the attempt, which stays until then.

        `check` is called several times a second while a bucket receives the file, and may raise. Raises StoreFull.
        """
        ...

    def fetch_checkpoint(self, job_id: str, attempt: int, to: Path) -> None:
        """Copy the attempt's checkpoint to a local file, which its owner alone can read.

        Raises NotFound, StoreFull, and OSError for a folder that is missing.
        """
        ...

    def drop_checkpoints(self, job_id: str, of: Callable[[int], bool] = every) -> None:
        """Remove the checkpoints of those of the job's attempts that `of` selects. Raises StoreUnavailable."""
        ...

    def put_lora(self, sha256: str, file: Path, check: Callable[[], None]) -> None:
        """Store a copy of a LoRA's file durably under its SHA-256. It is new for `loras`, also if it was there.

        `check` is called several times a second and may raise. Raises StoreFull.
        """
        ...

    def lora_file(self, sha256: str, cache: Path) -> Path:
        """Return a LoRA's file as a local one: in place, or a verified copy in `cache`.

        Raises NotFound, and StoreFull if there is no room for the copy.
        """
        ...

    def drop_lora(self, sha256: str) -> None:
        """Remove a LoRA's file from the store. Raises StoreUnavailable."""
        ...

    def loras(self, older_than_seconds: float) -> list[str]:
        """Return the SHA-256 of the LoRAs' files that were stored at least that long ago."""
        ...

    def drop_attempt(self, job_id: str, attempt: int) -> None:
        """Remove the attempt's files, on this machine and in the store. Missing files are ignored.

        Raises StoreUnavailable if files remain.
        """
        ...

    def drop_job(self, job_id: str) -> None:
        """Remove the job's inputs and artifacts. Raises StoreUnavailable if files remain."""
        ...

    def drop_jobs(self, job_ids: Sequence[str]) -> dict[str, StoreUnavailable]:
        """Remove the inputs and artifacts of many jobs. Return the jobs with remaining files, and why."""
        ...

    def orphaned_files(self, older_than_seconds: float, after: str = "") -> Iterator[OrphanedFiles]:
        """Yield jobs with files that were not changed for that long, in the order of ids, after the id `after`.

        They are read lazily, so that only a few are in memory.
        """
        ...

    def drop_unfinished(self, older_than_seconds: float) -> int:
        """Remove unfinished uploads that began that long ago. Return how many."""
        ...

    def attempts(self, job_id: str) -> list[int]:
        """Return the attempts that have files."""
        ...

    def allocated_bytes(self, job_id: str) -> int:
        """Return the size of the job's inputs and artifacts in bytes."""
        ...

    def is_beside(self, folder: Path) -> bool:
        """Return whether files removed from the store free space on that folder's disk."""
        ...

    def ask(self) -> None:
        """Check that the store responds. Raises StoreUnavailable."""
        ...

    @property
    def link_origin(self) -> str | None:
        """Scheme, host and port of links to artifacts; None if there are no links."""
        ...


def open_store(settings: Settings, agreed: Callable[[], str], *, create: bool) -> Store:
    """Open the store that the settings name, and check its marker.

    `agreed` returns the installation's marker. `create`: write it if there is none. Raises StoreMismatch and
    StoreUnavailable, and ConfigurationError if the bucket refuses access.
    """
    if settings.store_url is None:
        return DirectoryStore.opened(settings.store_dir, agreed, create=create)
    from shared.storage.bucket import BucketStore

    return BucketStore.opened(settings, agreed, create=create)
