"""The caller of a request: scopes, visible jobs, and the limits of new jobs. Pure functions."""

import hashlib
from dataclasses import dataclass, replace

from starlette.requests import HTTPConnection

from shared.access import audit
from shared.access.keys import Limits
from shared.errors import FieldError, Forbidden, InvalidField
from shared.jobs.accepting import NewJob
from shared.states import Priority, Scope
from wanworks.requests import GenerationRequest

_MEANINGS = {Scope.READ: "read", Scope.SUBMIT: "submit jobs", Scope.ADMIN: "administer"}
UNLIMITED = Limits()
_OVER = "is above the highest priority that this API key allows, `{}`"
_NO_OWNER = ""  # matches no job: callers without a key own none


@dataclass(frozen=True)
class Caller:
    """An authenticated caller. `key_id` is None for a caller without a key; `name` then says which kind."""

    name: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    sees_all_jobs: bool = False  # also without the admin scope
    limits: Limits = UNLIMITED

    @property
    def only(self) -> str | None:
        """Return the owner whose jobs are visible; None: the jobs of all owners."""
        return None if self.sees_all_jobs or Scope.ADMIN in self.scopes else self.key_id or _NO_OWNER

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def sees(self, owner: str | None) -> bool:
        """Return whether a job of that owner is visible."""
        return self.only is None or owner == self.only

    def require(self, scope: Scope) -> None:
        """Raise Forbidden if the caller does not have the scope."""
        if not self.may(scope):
            raise Forbidden(f"This API key may not {_MEANINGS[scope]}: it needs the scope `{scope}`")

    def check_priority(self, request: GenerationRequest) -> None:
        """Raise InvalidField for an explicitly requested priority above the key's maximum."""
        if "priority" in request.model_fields_set:
            self.check_ceiling(request.priority)

    def check_ceiling(self, priority: Priority) -> None:
        """Raise InvalidField for a new priority above the key's maximum."""
        ceiling = self.limits.priority_ceiling
        if ceiling is not None and priority.rank < ceiling.rank:
            raise InvalidField(FieldError(("body", "priority"), _OVER.format(ceiling), "over_ceiling"))

    def owning(self, new: NewJob) -> NewJob:
        """Return the job with this caller as its owner, under the caller's limits."""
        if self.key_id is None:
            return new
        ceiling = self.limits.priority_ceiling or Priority.CRITICAL
        return replace(
            new,
            owner=self.key_id,
            owner_may_queue=self.limits.queued_jobs,
            priority=max(new.priority, ceiling, key=lambda priority: priority.rank),
            idempotency_key=self.own_key(new.idempotency_key),
        )

    def own_key(self, idempotency_key: str | None) -> str | None:
        """Return the idempotency key as it is stored: separate for each caller."""
        if self.key_id is None or idempotency_key is None:
            return idempotency_key
        return hashlib.sha256(f"{self.key_id}\n{idempotency_key}".encode()).hexdigest()


EVERYTHING = frozenset(Scope)
LOCAL = Caller(audit.LOCAL, EVERYTHING)  # a user of this host, in an installation without keys
LINK = Caller("link", frozenset({Scope.READ}), sees_all_jobs=True)  # the holder of a signed link to one file
UNKNOWN = Caller("nobody", frozenset())  # the key could not be read from the database
_SCOPE_KEY = "wanworks.caller"
_FOR_ANOTHER = "wanworks.for_another"


def set_caller(connection: HTTPConnection, caller: Caller) -> None:
    connection.scope[_SCOPE_KEY] = caller


def caller_of(connection: HTTPConnection) -> Caller:
    """Return the caller of an admitted request."""
    caller = connection.scope[_SCOPE_KEY]
    assert isinstance(caller, Caller)
    return caller


def is_known(connection: HTTPConnection) -> bool:
    return _SCOPE_KEY in connection.scope


def note_owner(connection: HTTPConnection, owner: str | None) -> None:
    """Note that the request acts on a job of this owner."""
    if owner != caller_of(connection).key_id:
        connection.scope[_FOR_ANOTHER] = True


def is_for_another(connection: HTTPConnection) -> bool:
    """Return whether the request acts on another caller's job, which needs the admin scope."""
    return _FOR_ANOTHER in connection.scope
