"""The handler that fetches a LoRA's file from the hub or a URL into the library."""

import hashlib
import time
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_url

from shared.catalogue.job_types import LoraFetchParams
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import BadInput, CannotFetch, Conflict, InvalidField
from shared.messaging.progress import Progress, RestingRedis
from shared.models.loras import header, library
from shared.models.loras.library import NewFile
from shared.net.outbound import ANYWHERE, Allowed, NotFetched
from shared.net.saving import NoUse, Wanted, save
from shared.settings import Settings
from shared.states import Phase
from shared.storage.disk import full_disk_as_store_full
from shared.storage.store import Store
from wanworks.net.urls import ForbiddenAddress
from workers.attempts.heartbeat import Heartbeat

_REPORT_SECONDS = 0.25


class LoraFetchHandler:
    """Fetches LoRAs on one node."""

    at_most: int | None = 2

    def __init__(self, settings: Settings, database: Database, store: Store, redis: RestingRedis) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._progress = Progress(redis)

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        """Fetch, check and add the file. Raises BadInput, CannotFetch, and what `heartbeat.check` raises."""
        params = LoraFetchParams.model_validate(job.params)
        path = self._partial(job.id)
        with full_disk_as_store_full():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._save(job, params, path, heartbeat)
        try:
            with path.open("rb") as file:
                described = header.read(file, path.stat().st_size)
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._store.put_lora(sha256, path, heartbeat.check)
            origin = params.url or f"{params.repo}/{params.file}@{params.revision}"
            made = NewFile(
                params.expert, sha256, path.stat().st_size, described, "url" if params.url else "hub", origin
            )
            row = library.add(self._database, params.name, made, owner=job.owner, description=params.description)
        except InvalidField as error:
            raise BadInput(f"The file {error.errors[0].msg}.") from None
        except Conflict as error:
            raise BadInput(error.message) from None
        return {"lora_id": row.id, "name": row.name, "bytes": made.bytes, "sha256": sha256}

    def undo(self, job: Job) -> None:
        """Do nothing: the next attempt of the job starts the file anew."""

    def after(self, job: Job) -> None:
        """Remove the partial file."""
        self._partial(job.id).unlink(missing_ok=True)

    def _partial(self, job_id: str) -> Path:
        return self._settings.home / "uploads" / f"{job_id}.partial"

    def _save(self, job: Job, params: LoraFetchParams, path: Path, heartbeat: Heartbeat) -> None:
        next_report = 0.0

        def came(done: int, whole: int | None) -> None:
            nonlocal next_report
            heartbeat.check()
            percent = round(100 * done / whole, 1) if whole else 0.0
            heartbeat.moved(Phase.FETCHING, percent)
            if time.monotonic() >= next_report:
                next_report = time.monotonic() + _REPORT_SECONDS
                event = {
                    "kind": "progress", "attempt": job.attempt, "phase": Phase.FETCHING, "percent": percent,
                    "bytes_done": done, "bytes_total": whole,
                }  # fmt: skip
                self._progress.report(job.id, event)

        try:
            save(self._wanted(params), path, came)
        except (ForbiddenAddress, NoUse) as error:
            raise BadInput(f"{error.message}.") from None
        except NotFetched as error:
            raise CannotFetch(f"{error.message}.") from None

    def _wanted(self, params: LoraFetchParams) -> Wanted:
        most = self._settings.lora_max_mb * 10**6
        if params.url is not None:
            return Wanted(params.url, Allowed.of(self._settings.outbound_allow), most)
        assert params.repo is not None
        assert params.file is not None
        url = hf_hub_url(params.repo, params.file, revision=params.revision, endpoint=self._settings.hub_url)
        token = self._settings.hub_token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if params.with_token and token else None
        return Wanted(url, ANYWHERE, most, headers=headers)
