"""Which models and blobs are on this node: looked at, recorded, and the dispatcher woken where models have changed."""

from shared import broker, clock, replicas
from shared.catalogue import Catalogue
from shared.database import Database
from shared.progress import RestingRedis
from shared.settings import Settings
from workers import inventory


def look(settings: Settings, database: Database, catalogue: Catalogue, redis: RestingRedis) -> None:
    """One quick, offline scan of every model of the catalogue. Raises OSError where the model storage is away."""
    began = clock.now()
    found = {entry.model_id: replicas.scan(settings.models_dir, entry) for entry in catalogue.entries}
    if replicas.record(database, settings.node, catalogue, found, began):
        broker.nudge(redis)
    inventory.record(database, settings.node, settings.models_dir, catalogue)
