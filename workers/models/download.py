"""The handler of download jobs: resolve the commit, list its files, fetch them, record them as verified, prepare them.

The hub resolves the commit once. It is kept in the row, so that every later attempt continues with the same files even
if the branch has moved. The download of a preset fetches its base first, if the node lacks some of its files.
"""

import logging
from pathlib import Path
from typing import Any

from shared import clock
from shared.catalogue.job_types import DownloadParams
from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import CannotPrepare, HubRefused, HubUnavailable, HubUnreachable, StoreFull
from shared.jobs import download_control
from shared.jobs.attempts import Fetched
from shared.messaging import celery
from shared.messaging.progress import Progress, RestingRedis
from shared.models import prepared, replica_files, replicas
from shared.models.replica_files import FileState
from shared.settings import Settings
from shared.states import JobState, Phase
from shared.telemetry.metrics import DOWNLOADED, Meters
from workers.attempts.heartbeat import Heartbeat
from workers.models import presence
from workers.models.fetch import plan as plans
from workers.models.fetch.client import HubClient
from workers.models.fetch.fetcher import fetch
from workers.models.fetch.layout import RepoCache
from workers.models.fetch.plan import FetchPlan, FetchResult, Limits, RemoteFile
from workers.models.preparing.phase import Preparing, forms_for
from workers.models.preparing.plan import estimated

log = logging.getLogger("wanworks.download")


class DownloadHandler:
    """Runs the downloads of one node."""

    def __init__(
        self, settings: Settings, database: Database, catalogue: Catalogue, redis: RestingRedis, meters: Meters
    ) -> None:
        self.at_most: int | None = settings.download_slots
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._redis = redis
        self._progress = Progress(redis)
        self._meters = meters
        self._files_bytes = 0  # of the running attempt's commits
        self._copies_bytes = 0  # and of the copies, estimated
        self._done_bytes = 0  # of the commits that are complete
        self._later_bytes = 0  # of those that are fetched after the present one
        self._came: dict[str, int] = {}  # counted bytes of the running attempt, by job

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        params = DownloadParams.model_validate(job.params)
        entry = self._catalogue.get(params.model_id)
        self._files_bytes = self._copies_bytes = self._done_bytes = self._later_bytes = 0
        results: list[FetchResult] = []
        written: dict[str, Any] | None = None
        try:
            # The base's commit is asked for again by a later attempt; the entry's own is kept.
            base = self._missing_base(entry) if params.revision is None else None
            plan = self._plan(job, params, entry, heartbeat)
            plans = [(entry, plan)]
            if base is not None:
                base_params = DownloadParams(model_id=base.model_id, node=params.node)
                plans.insert(0, (base, self._plan(job, base_params, base, heartbeat, keeps=False)))
            for place, (each, its_plan) in enumerate(plans):
                self._later_bytes = sum(file.size for _, later in plans[place + 1 :] for file in later.files)
                self._came.clear()
                heartbeat.moved(Phase.FETCHING, heartbeat.percent)
                result = fetch(
                    its_plan,
                    report=lambda progress: self._report(job, heartbeat, progress),
                    check=lambda: self._check(heartbeat),
                    limit=lambda: Limits(heartbeat.bandwidth_mbps, self._settings.download_limit_mbps),
                )
                results.append(result)
                self._done_bytes += result.bytes_total
                if params.revision is None:
                    self._record(each, its_plan)
        except HubUnavailable as error:
            raise HubUnreachable(error.message) from error
        except StoreFull as error:
            self._note_missing_room(heartbeat, error)
            raise
        for each, its_plan in plans:
            if params.revision is None and each.lora is None:
                written = self._prepare(job, each, its_plan, heartbeat)
        return {
            "revision": plan.sha,
            "bytes_total": sum(result.bytes_total for result in results),
            "bytes_fetched": sum(result.bytes_fetched for result in results),
            "seconds": round(sum(result.seconds for result in results), 3),
            "files": sum(len(its_plan.files) for _, its_plan in plans),
            "refetched": [path for result in results for path in result.refetched],
            "prepared": written,
        }

    def undo(self, job: Job) -> None:
        """Do nothing: the next attempt continues from the received bytes."""

    def after(self, job: Job) -> None:
        """Remove the partial files of a cancelled download, and scan the node's models."""
        if job.status == JobState.CANCELLED:
            presence.drop_cancelled_partials(self._settings, self._database, self._catalogue)
        presence.scan(self._settings, self._database, self._catalogue, self._redis)

    def _missing_base(self, entry: CatalogueEntry) -> CatalogueEntry | None:
        """Return the model whose files a preset needs too, if this node lacks some of them."""
        if entry.requires is None:
            return None
        held = replicas.ready(self._database, [self._settings.node]).get(self._settings.node, frozenset())
        return self._catalogue.get(entry.requires) if entry.requires not in held else None

    def _plan(
        self, job: Job, params: DownloadParams, entry: CatalogueEntry, heartbeat: Heartbeat, *, keeps: bool = True
    ) -> FetchPlan:
        """Return what to fetch of the entry's own files. `keeps`: the commit is kept in the row for later attempts."""
        settings = self._settings
        token = settings.hub_token.get_secret_value() if settings.hub_token is not None else None
        hub = HubClient(settings.hub_url, token)
        heartbeat.moved(Phase.LISTING, heartbeat.percent)
        asked = params.sha or params.revision or entry.own_revision
        sha = hub.resolve(entry.own_repo, asked, check=lambda: self._check(heartbeat))
        if keeps:
            download_control.keep_commit(self._database, job.id, job.attempt, sha)
        snapshot = RepoCache(settings.models_dir, entry.own_repo).snapshot(sha)
        suspect = replica_files.suspects(self._database, settings.node, entry.model_id)
        listed = hub.list_files(entry.own_repo, sha, check=lambda: self._check(heartbeat))
        copies_bytes = 0
        if entry.lora is not None:
            listed = _chosen(listed, entry)
        elif params.revision is None:
            copies_bytes = self._copies(snapshot, listed)
        self._copies_bytes += copies_bytes
        self._files_bytes += sum(file.size for file in listed)
        return FetchPlan(
            repo=entry.own_repo,
            # A commit that was requested by name is kept, but the node does not serve it.
            revision=entry.own_revision if params.revision is None else sha,
            sha=sha,
            files=_needed(snapshot, listed),
            models_dir=settings.models_dir,
            endpoint=settings.hub_url,
            token=token,
            bandwidth_file=settings.home / "run" / "bandwidth",
            min_free_bytes=settings.min_free_disk_mb * 1_000_000,
            copies_bytes=copies_bytes,
            quiet_seconds=settings.quiet_socket_seconds,
            suspect=suspect,
        )

    def _copies(self, snapshot: Path, listed: list[RemoteFile]) -> int:
        """Return how many bytes the copies will take that the settings ask for."""
        forms = forms_for(self._settings, self._database)
        there = {f"{copy.component} {copy.form}" for copy in prepared.copies(snapshot)}
        estimates = estimated(((file.path, file.size) for file in listed), forms)
        lacking = [size for name, size in estimates.items() if name not in there]
        # Without the published weights, only one copy at a time stands beside them.
        return sum(lacking) if self._settings.keep_sources else max(lacking, default=0)

    def _note_missing_room(self, heartbeat: Heartbeat, error: StoreFull) -> None:
        """Count the copies in the job's bytes, so that it is resumed only once there is room for them too."""
        fetched = heartbeat.fetched
        total = self._files_bytes + self._copies_bytes
        needed = error.needed_bytes if error.needed_bytes is not None else total - (fetched.bytes_done or 0)
        total = max(total, needed)
        heartbeat.fetched = Fetched(total - needed, total, fetched.percent)

    def _prepare(self, job: Job, entry: CatalogueEntry, plan: FetchPlan, heartbeat: Heartbeat) -> dict[str, Any] | None:
        """Write the copies that the settings ask for. Return the result; the error does not fail the download."""
        forms = forms_for(self._settings, self._database)
        if not forms:
            return None
        snapshot = RepoCache(plan.models_dir, plan.repo).snapshot(plan.sha)
        celery.wake(self._redis)  # jobs that wait for the model can start
        try:
            preparing = Preparing(self._settings, self._database, self._progress, job, heartbeat)
            return preparing.run(entry, snapshot, forms).as_dict()
        except StoreFull as error:
            self._note_missing_room(heartbeat, error)
            raise
        except CannotPrepare as error:
            log.warning("job %s: %s was downloaded but not prepared: %s", job.id, entry.model_id, error)
            return {"error": error.message}

    def _record(self, entry: CatalogueEntry, plan: FetchPlan) -> None:
        """Record the replica as complete and served; every file's hash was verified on arrival."""
        snapshot = RepoCache(plan.models_dir, plan.repo).snapshot(plan.sha)
        now = clock.now()
        files = []
        for file in plan.files:
            state = (snapshot / file.path).stat()
            files.append(FileState(file.path, file.size, file.oid, state.st_mtime, state.st_ino, now))
        node = self._settings.node
        replica_files.record_download(
            self._database, node, entry.model_id, plan.repo, plan.sha, files, now, requires=entry.requires
        )

    def _check(self, heartbeat: Heartbeat) -> None:
        """Count every call as progress: the fetcher itself limits its waits for the hub."""
        heartbeat.moved(heartbeat.phase, heartbeat.percent)
        heartbeat.check()

    def _report(self, job: Job, heartbeat: Heartbeat, progress: plans.Progress) -> None:
        done = self._done_bytes + progress.bytes_done
        files = self._done_bytes + progress.bytes_total + self._later_bytes
        total = files + self._copies_bytes
        percent = round(100 * done / total, 1) if total else 0.0
        heartbeat.moved(Phase.FETCHING, percent)
        came, self._came[job.id] = progress.received - self._came.get(job.id, 0), progress.received
        self._meters.count(DOWNLOADED, self._settings.node, job.model_id or "", by=came)
        heartbeat.fetched = Fetched(done, files, percent)
        rate = progress.bytes_per_second
        left = files - done
        event = {
            "kind": "progress",
            "attempt": job.attempt,
            "phase": Phase.FETCHING,
            "percent": percent,
            "bytes_done": done,
            "bytes_total": files,
            "bytes_per_second": round(rate),
            "eta_seconds": round(left / rate, 1) if rate > 0 else None,
            "files": [{"path": file.path, "done": file.done, "total": file.total} for file in progress.files],
        }
        if self._progress.report(job.id, event):
            heartbeat.cancel()


def _chosen(listed: list[RemoteFile], entry: CatalogueEntry) -> list[RemoteFile]:
    """Return the files of a preset's LoRA. Raises HubRefused if the repository does not have one of them."""
    assert entry.lora is not None
    there = {file.path: file for file in listed}
    for path in entry.lora.paths:
        if path not in there:
            raise HubRefused(
                f"{entry.lora.repo} at {entry.lora.revision} has no {path}: correct `lora` of {entry.model_id} in the "
                "catalogue"
            )
    return [there[path] for path in entry.lora.paths]


def _needed(snapshot: Path, listed: list[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Return the files to fetch: all but published weights that were removed because a copy stands in for them."""
    removed = {path for copy in prepared.removed_sources(snapshot) for path in copy.sources}
    return tuple(file for file in listed if file.path not in removed)
