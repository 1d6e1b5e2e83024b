"""Retry jobs for their owners, each at most once, under the limits of the owner's key."""

from api.access.caller import Caller
from api.services.admission import gpu_limits
from api.services.admission.admission import Admission
from shared import clock
from shared.access import keys
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import Forbidden, RequestError
from shared.jobs import accepting
from shared.jobs.accepting import Accepted


class Retrying:
    """Retries jobs. It remembers the keys of their owners, so make one for each request or pass."""

    def __init__(self, database: Database, admission: Admission, *known: Caller) -> None:
        self._database = database
        self._admission = admission
        self._owners: dict[str | None, Caller] = {caller.key_id: caller for caller in known}

    def retry(self, job: Job) -> Accepted:
        """Store a repetition of the job for its owner; once, however many requests do it. Raises RequestError."""
        if job.owner not in self._owners:
            self._owners[job.owner] = self._owner(job.owner)
        owner = self._owners[job.owner]
        new = self._admission.retry(job, f"redrive:{job.id}", owner.limits)
        owned = owner.owning(new)
        try:
            gpu_limits.check(self._database, owner.limits, owned)
            (outcome,) = accepting.accept(self._database, [owned])
            if not isinstance(outcome, Accepted):
                raise outcome
        except RequestError:
            self._admission.discard(new)
            raise
        if outcome.replayed:
            self._admission.discard(new)
        return outcome

    def _owner(self, key_id: str | None) -> Caller:
        """Return the key of another caller, whose limits its jobs have. Raises Forbidden if it is no longer valid."""
        if key_id is None:
            return Caller("nobody", frozenset())
        row = keys.get(self._database, key_id)
        if row is None or not keys.is_good(row, clock.now()):
            raise Forbidden(
                "The API key that submitted the job was revoked or has expired; retry the job under your own"
            )
        return Caller(row.name, frozenset(), row.id, limits=keys.limits(row))
