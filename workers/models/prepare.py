"""The handler of preparations: write copies of a model's weights in the form in which they are loaded."""

from typing import Any

from shared.catalogue.job_types import PrepareParams
from shared.catalogue.models import Catalogue
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import ModelUnavailable
from shared.messaging.progress import Progress, RestingRedis
from shared.models import replicas
from shared.settings import Settings
from shared.states import ReplicaState
from workers.attempts.heartbeat import Heartbeat
from workers.models import presence
from workers.models.preparing.phase import Preparing


class PrepareHandler:
    """Runs the preparations of one node."""

    at_most: int | None = 1

    def __init__(self, settings: Settings, database: Database, catalogue: Catalogue, redis: RestingRedis) -> None:
        self._settings = settings
        self._database = database
        self._catalogue = catalogue
        self._redis = redis

    def run(self, job: Job, heartbeat: Heartbeat) -> dict[str, Any]:
        """Write the copies. Raises ModelUnavailable if the model is not complete on this node; CannotPrepare."""
        params = PrepareParams.model_validate(job.params)
        entry = self._catalogue.get(params.model_id)
        if entry.requires is not None:  # a preset's weights are its base's
            entry = self._catalogue.get(entry.requires)
        presence.scan(self._settings, self._database, self._catalogue, self._redis)
        snapshot = replicas.snapshot_dir(self._settings.models_dir, entry)
        if snapshot is None or replicas.scan(self._settings.models_dir, entry).state != ReplicaState.AVAILABLE:
            raise ModelUnavailable(f"{params.model_id} is not complete on node {self._settings.node}")
        preparing = Preparing(self._settings, self._database, Progress(self._redis), job, heartbeat)
        outcome = preparing.run(entry, snapshot, (params.quantization,))
        return {"revision": snapshot.name, "quantization": params.quantization, **outcome.as_dict()}

    def undo(self, job: Job) -> None:
        """Do nothing: the next attempt continues after the finished files."""

    def after(self, job: Job) -> None:
        """Scan the node's models."""
        presence.scan(self._settings, self._database, self._catalogue, self._redis)
