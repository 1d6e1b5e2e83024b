"""Cache the response bodies of the dashboard's history until there is a new snapshot."""

import threading
from collections import OrderedDict
from datetime import datetime, timedelta

from api.schemas.dashboard import dashboard as dashboard_schemas
from shared import clock
from shared.database.engine import Database
from shared.database.tables import Snapshot
from shared.insight import snapshots

_STAND = timedelta(minutes=1)
_MAX_CACHED = 8  # number of periods; the body of one has up to 250 kB


class Histories:
    """Bodies by period in hours. New snapshots appear at once; old ones disappear within a minute."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: OrderedDict[int, tuple[datetime | None, datetime, bytes]] = OrderedDict()

    def body(self, hours: int, now: datetime) -> bytes:
        """Return the body for the last `hours`. Raises DatabaseUnavailable."""
        newest = snapshots.newest(self._database)
        with self._lock:
            known = self._known.get(hours)
        if known is not None and known[0] == newest and timedelta() <= now - known[1] < _STAND:
            return known[2]
        found = snapshots.history(self._database, now - timedelta(hours=hours), now)
        body = dashboard_schemas.MetricsHistory(
            [dashboard_schemas.SnapshotFigures.model_validate(figures(one)) for one in found]
        )
        content = body.model_dump_json().encode()
        with self._lock:
            self._known[hours] = (newest, now, content)
            self._known.move_to_end(hours)
            if len(self._known) > _MAX_CACHED:
                self._known.popitem(last=False)
        return content


def figures(row: Snapshot) -> dict[str, object]:
    """Return a snapshot with the API's field names."""
    return {"timestamp": clock.iso(row.at), **row.model_dump(exclude={"at"})}
