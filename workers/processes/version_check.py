"""Periodically read from the hub which commit each model is at. While offline, the last result and its age remain."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from celery import shared_task

from shared import clock
from shared.catalogue import models
from shared.catalogue.models import CatalogueEntry
from shared.database.engine import Database
from shared.errors import HubRefused, HubUnavailable
from shared.messaging.ticks import once
from shared.models import versions
from workers.processes import process

if TYPE_CHECKING:
    from workers.models.fetch.client import HubClient

log = logging.getLogger("wanworks.versions")

_PATIENCE_SECONDS = 20.0


def check_versions(database: Database, hub: "HubClient", entries: Iterable[CatalogueEntry]) -> str:
    """Check each model that is due. A model whose check fails is checked less and less often."""
    asked = answered = 0
    for entry in entries:
        if not versions.is_due(database, entry.model_id, clock.now()):
            continue
        asked += 1
        latest = None
        try:
            latest = hub.resolve(entry.own_repo, entry.own_revision)
            answered += 1
        except (HubUnavailable, HubRefused) as error:
            log.warning("%s: %s", entry.model_id, error)
        versions.record(database, entry.model_id, latest, clock.now())
    return f"{answered} of {asked} answered"


@shared_task(name="wanworks.tick.versions")
def versions_tick(name: str, every: float) -> str | None:
    from workers.models.fetch.client import HubClient  # the main process imports this module, and needs no client

    settings = process.settings()
    token = settings.hub_token.get_secret_value() if settings.hub_token is not None else None
    hub = HubClient(settings.hub_url, token, patience_seconds=_PATIENCE_SECONDS)
    entries = models.load(settings.catalogue).entries
    database = process.database()
    return once(database, name, every, clock.now().timestamp(), lambda _: check_versions(database, hub, entries))
