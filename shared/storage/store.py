"""The store: where artifacts and uploaded inputs lie, readable by every node. A directory, or a bucket by setting.

Whoever uses one does not know which it is, but for the web process, which may send clients to a bucket themselves. The
bucket's libraries are loaded only where there is a bucket.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.storage.directory import DirectoryStore
from shared.storage.layout import OrphanedFiles


class InBucket(Protocol):
    """An artifact that lies in a bucket."""

    def link(self, content_type: str, at_most_seconds: int | None = None) -> str:
        """A URL that gives it to whoever holds it, for `store_link_seconds`, or for less."""
        ...

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`. The first piece is here on return. Raises NotFound, StoreUnavailable."""
        ...


class Store(Protocol):
    """Open it with `open_store`, which checks the marker. Everything here may raise StoreUnavailable."""

    def put_input(self, job_id: str, name: str, content: bytes) -> str:
        """Writes an input whole and durably; returns its name in the store. Raises StoreFull and leaves nothing."""
        ...

    def copy_input(self, reference: str, job_id: str) -> str:
        """The same input for another job. Raises NotFound where it is gone."""
        ...

    def input_file(self, reference: str, attempt: int) -> Path:
        """The input as a file of this machine, there as long as the attempt runs. Raises NotFound."""
        ...

    def attempt_dir(self, job_id: str, attempt: int) -> Path:
        """A fresh, empty folder of this machine for one attempt's artifacts. Raises StoreFull."""
        ...

    def keep(
        self,
        job_id: str,
        attempt: int,
        names: Collection[str],
        check: Callable[[], None],
        moved: Callable[[], None],
    ) -> None:
        """What lies in the attempt's folder under these names is in the store, whole and durably, on return.

        `check` is called several times a second and may raise; `moved` says that there was headway. Then, and where
        StoreUnavailable is raised after `store_patience_seconds` in vain, `drop_attempt` is due.
        """
        ...

    def artifact(self, job_id: str, attempt: int, name: str) -> Path | InBucket:
        """Raises NotFound, also for a name that is none. A bucket is not asked before it is read."""
        ...

    def drop_attempt(self, job_id: str, attempt: int) -> None:
        """Removes what the attempt has left, on this machine and in the store.

        What is not there is removed already. Raises StoreUnavailable where something is left.
        """
        ...

    def drop_job(self, job_id: str) -> None:
        """Removes the job's inputs and artifacts. Raises StoreUnavailable where something is left."""
        ...

    def drop_jobs(self, job_ids: Sequence[str]) -> dict[str, StoreUnavailable]:
        """Removes the inputs and artifacts of many jobs. Returns those of which something is left, and why."""
        ...

    def orphaned_files(self, older_than_seconds: float, after: str = "") -> Iterator[OrphanedFiles]:
        """Jobs that have something here which nothing has touched for that long, by id, from the one after `after`.

        They are found while they are asked for: however many there are, few are in memory.
        """
        ...

    def drop_unfinished(self, older_than_seconds: float) -> int:
        """Removes uploads that were begun so long ago and never finished; how many."""
        ...

    def attempts(self, job_id: str) -> list[int]:
        """The attempts of which there is anything."""
        ...

    def allocated_bytes(self, job_id: str) -> int:
        """What the job's inputs and artifacts take."""
        ...

    def is_beside(self, folder: Path) -> bool:
        """Whether what is removed here makes room on that folder's disk."""
        ...

    def ask(self) -> None:
        """Raises StoreUnavailable where the store does not answer."""
        ...

    @property
    def link_origin(self) -> str | None:
        """Scheme, host and port of links to artifacts; None where there are none."""
        ...


def open_store(settings: Settings, agreed: Callable[[], str], *, create: bool) -> Store:
    """The store that the settings name, if its marker is the one that the installation agreed on.

    `create` makes it where there is no marker yet. Raises StoreMismatch, StoreUnavailable; ConfigurationError where
    the bucket refuses us.
    """
    if settings.store_url is None:
        return DirectoryStore.opened(settings.store_dir, agreed, create=create)
    from shared.storage.bucket import BucketStore

    return BucketStore.opened(settings, agreed, create=create)
