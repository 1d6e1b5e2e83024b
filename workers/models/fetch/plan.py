"""The input, progress and result of a download. Data only."""

from dataclasses import dataclass, field
from pathlib import Path

# Some write and hash while others receive. More connections gain nothing on two cores, and hubs limit them.
CONNECTIONS = 8


@dataclass(frozen=True)
class RemoteFile:
    """One file of a commit on the hub."""

    path: str
    size: int  # bytes
    oid: str  # the name of its blob: SHA-256 of the content, or git's blob SHA-1 where `lfs` is False
    lfs: bool


@dataclass(frozen=True)
class FetchPlan:
    """One commit's files, to be written into a Hugging Face cache."""

    repo: str
    revision: str  # the branch or tag that is moved to `sha` at the end; may be the sha itself
    sha: str
    files: tuple[RemoteFile, ...]
    models_dir: Path
    endpoint: str
    token: str | None = field(default=None, repr=False)
    bandwidth_file: Path | None = None  # shared by all downloads of the node; None: no node limit is kept
    min_free_bytes: int = 0  # stays free on the disk
    copies_bytes: int = 0  # for prepared copies of the files; must be free besides before the first byte
    quiet_seconds: float = 60.0  # a connection without data for this long is closed and opened again
    patience_seconds: float = 600.0  # without any byte of any file, the download ends with HubUnavailable
    connections: int = CONNECTIONS  # files at once
    suspect: frozenset[str] = frozenset()  # oids whose blobs on this disk must be fetched again


@dataclass(frozen=True)
class Limits:
    """Present bandwidth limits in Mbps (10^6 bits per second); None is unlimited."""

    download_mbps: float | None = None
    node_mbps: float | None = None


@dataclass(frozen=True)
class FileProgress:
    path: str
    done: int
    total: int


@dataclass(frozen=True)
class Progress:
    """Bytes on this disk, of complete and partial files, and the commit's total."""

    bytes_done: int
    bytes_total: int
    received: int  # bytes from the hub since this fetch began
    bytes_per_second: float  # from the hub, over the last seconds
    files: tuple[FileProgress, ...]


@dataclass(frozen=True)
class FetchResult:
    snapshot: Path  # the folder of the model's files
    bytes_total: int
    bytes_fetched: int  # from the hub; less than the total if some were here before
    seconds: float
    refetched: tuple[str, ...]  # paths received with a wrong checksum once
