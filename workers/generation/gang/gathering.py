"""Gathers the devices of a gang before it starts: each must have let go of the models that its worker has loaded."""

import time
from collections.abc import Callable

from shared.cluster import nodes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import Draining
from shared.jobs.claims import gangs
from workers.generation.seats import Member

_LOOK_SECONDS, _LIMIT_SECONDS = 0.2, 60.0


def gathered(database: Database, job: Job, check: Callable[[], None]) -> tuple[Member, ...]:
    """Return the other devices of the job's gang, once their workers have nothing loaded; none for a single job.

    The row reserves the devices, so their workers are idle, and load nothing. Raises what the check raises, and
    Draining, which returns the job to the queue, if a worker does not answer.
    """
    keys = gangs.keys_of(job.members) if job.devices > 1 else ()
    if not keys:
        return ()
    devices = nodes.with_keys(database, keys)
    if len(devices) < len(keys):
        raise Draining("A device of the gang is not registered any more")
    if any(device.warm for device in devices):
        nodes.ask_to_release(database, [device.key for device in devices if device.warm])
    deadline = time.monotonic() + _LIMIT_SECONDS
    while any(nodes.warm(database, key) for key in keys):
        check()
        if time.monotonic() > deadline:
            raise Draining("A worker of the gang has not released its loaded models")
        time.sleep(_LOOK_SECONDS)
    return tuple(Member(one.key, f"{one.kind}:{one.index}", one.visible) for one in devices)
