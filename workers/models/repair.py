"""Fetch the broken files of a snapshot again. The caller decides which are broken and verifies them afterwards.

The files keep their commit; no branch is moved. A blob is replaced only by a complete and verified one.
"""

import re
from collections.abc import Callable, Collection, Iterable

from shared.catalogue.models import CatalogueEntry
from shared.errors import CannotRepair, ChecksumMismatch, HubRefused, HubUnavailable
from shared.models.verification import Expected, fault_of
from shared.settings import Settings
from workers.models import checksums
from workers.models.checksums import Read
from workers.models.fetch.client import HubClient
from workers.models.fetch.fetcher import fetch
from workers.models.fetch.layout import RepoCache
from workers.models.fetch.plan import FetchPlan, Limits, Progress, RemoteFile

_COMMIT = re.compile(r"[0-9a-f]{40}")
# How long an unavailable hub is retried. The model is out of service meanwhile, and the next check tries again.
_HUB_PATIENCE_SECONDS = 60.0


def fetch_again(
    settings: Settings,
    entry: CatalogueEntry,
    revision: str,
    paths: Collection[str],
    *,
    report: Callable[[Progress], None],
    check: Callable[[], None],
) -> list[Expected]:
    """Repair the files at these paths. Return the hub's description of them.

    Raises CannotRepair if the hub is unavailable or refuses, has no such commit or file, or if the files cannot be
    written; StoreFull; and what `check` raises to stop.
    """
    if _COMMIT.fullmatch(revision) is None:
        raise CannotRepair(f"{entry.model_id} is not a commit of its repository; download the model again")
    token = settings.hub_token.get_secret_value() if settings.hub_token is not None else None
    try:
        hub = HubClient(settings.hub_url, token, _HUB_PATIENCE_SECONDS)
        listed = {file.path: file for file in hub.list_files(entry.own_repo, revision, ("*",), check=check)}
        lost = sorted(set(paths) - set(listed))
        if lost:
            raise CannotRepair(f"the hub's commit {revision[:12]} of {entry.own_repo} has no {lost[0]}")
        files = tuple(listed[path] for path in paths)
        plan = FetchPlan(
            repo=entry.own_repo,
            revision=revision,
            sha=revision,
            files=files,
            models_dir=settings.models_dir,
            endpoint=settings.hub_url,
            token=token,
            bandwidth_file=settings.home / "run" / "bandwidth",
            min_free_bytes=settings.min_free_disk_mb * 1_000_000,
            quiet_seconds=settings.quiet_socket_seconds,
            patience_seconds=_HUB_PATIENCE_SECONDS,
            suspect=_not_as_named(RepoCache(settings.models_dir, entry.own_repo), files, check),
        )
        limits = Limits(None, settings.download_limit_mbps)
        fetch(plan, report=report, check=check, limit=lambda: limits)
    except (HubRefused, HubUnavailable, ChecksumMismatch) as error:
        raise CannotRepair(f"{entry.model_id} could not be repaired: {error.message}") from error
    except OSError as error:
        raise CannotRepair(f"{entry.model_id} could not be repaired: its files cannot be written") from error
    return [Expected(file.path, file.size, file.oid) for file in files]


def _not_as_named(cache: RepoCache, files: Iterable[RemoteFile], check: Callable[[], None]) -> frozenset[str]:
    """Return the checksums of blobs whose content differs from their name; a blob without a link may be valid."""
    named = {file.oid: Expected(file.oid, file.size, file.oid) for file in files}
    bad: set[str] = set()

    def came(read: Read) -> None:
        if read.found is not None and fault_of(named[read.path], read.found) is not None:
            bad.add(read.path)

    for _ in checksums.read_files(cache.folder / "blobs", list(named.values()), {}, check=check, came=came):
        pass
    return frozenset(bad)
