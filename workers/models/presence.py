"""Scan which models and blobs are on this node, record them, and wake the dispatcher if models have changed.

This module also removes partial files of cancelled downloads, because no attempt may be running that could do it.
"""

import logging

from shared import clock
from shared.catalogue.models import Catalogue
from shared.database.engine import Database
from shared.jobs import download_control
from shared.messaging import celery
from shared.messaging.progress import RestingRedis
from shared.models import replicas
from shared.settings import Settings
from workers.models import inventory
from workers.models.fetch.partials import Needs, delete_orphans

log = logging.getLogger("wanworks.presence")


def scan(settings: Settings, database: Database, catalogue: Catalogue, redis: RestingRedis) -> None:
    """Scan every model of the catalogue quickly and offline. Raises OSError if the model storage is unavailable."""
    began = clock.now()
    found = {entry.model_id: replicas.scan(settings.models_dir, entry) for entry in catalogue.entries}
    if replicas.record(database, settings.node, catalogue, found, began):
        celery.wake(redis)
    inventory.record(database, settings.node, settings.models_dir, catalogue)


def drop_cancelled_partials(settings: Settings, database: Database, catalogue: Catalogue) -> None:
    """Remove the partial files of cancelled downloads to this node that no other download needs.

    Raises OSError if the model storage is unavailable.
    """
    cancelled = download_control.with_partials(database, settings.node)
    if not cancelled:
        return
    # The download of a preset fetches its base too.
    repos = {entry.model_id: {entry.repo, entry.own_repo} for entry in catalogue.entries}
    needs = [
        Needs(job.id, repo, None)
        for job in download_control.unended(database, settings.node)
        for repo in repos.get(job.model_id or "", ())
    ]
    for repo in {repo for job in cancelled for repo in repos.get(job.model_id or "", ())}:
        freed = delete_orphans(settings.models_dir, needs, repo)
        log.info("%s: %.0f MB of partial files of cancelled downloads removed", repo, freed / 1e6)
    download_control.partials_removed(database, [job.id for job in cancelled])
