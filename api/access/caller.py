"""Who asks, as handlers know them: whose jobs they see, what they may do, and what their jobs are marked with. Pure."""

import hashlib
from dataclasses import dataclass, replace

from starlette.requests import HTTPConnection

from shared.access import audit
from shared.access.keys import Limits
from shared.errors import FieldError, Forbidden, InvalidField
from shared.jobs.records import NewJob
from shared.states import Priority, Scope
from wanworks.requests import GenerationRequest

_MEANINGS = {Scope.READ: "read", Scope.SUBMIT: "ask for work", Scope.ADMIN: "administer"}
UNLIMITED = Limits()
_NO_OWNER = ""  # whoever has no key has no jobs


@dataclass(frozen=True)
class Caller:
    """Somebody who was let in. `key_id` None: without a key, as `name` says."""

    name: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    sees_everybodys: bool = False  # without being good for anything else
    limits: Limits = UNLIMITED

    @property
    def only(self) -> str | None:
        """The owner whose jobs alone are shown; None: everybody's."""
        return None if self.sees_everybodys or Scope.ADMIN in self.scopes else self.key_id or _NO_OWNER

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def sees(self, owner: str | None) -> bool:
        """Whether a job of that owner is shown."""
        return self.only is None or owner == self.only

    def require(self, scope: Scope) -> None:
        """Raises Forbidden."""
        if not self.may(scope):
            raise Forbidden(f"This API key may not {_MEANINGS[scope]}: it has not the scope `{scope}`")

    def check_priority(self, asked: GenerationRequest) -> None:
        """Raises InvalidField for a priority over the key's ceiling that was asked for in so many words."""
        ceiling = self.limits.priority_ceiling
        if ceiling is not None and "priority" in asked.model_fields_set and asked.priority.rank < ceiling.rank:
            msg = f"this API key's jobs may have at most the priority `{ceiling}`"
            raise InvalidField(FieldError(("body", "priority"), msg, "over_ceiling"))

    def owning(self, new: NewJob) -> NewJob:
        """The job as this caller's own, under its limits.

        Its Idempotency-Key is the caller's alone: the same words from another caller are another key.
        """
        if self.key_id is None:
            return new
        ceiling = self.limits.priority_ceiling or Priority.CRITICAL
        key = new.idempotency_key
        return replace(
            new,
            owner=self.key_id,
            owner_may_queue=self.limits.queued_jobs,
            priority=max(new.priority, ceiling, key=lambda priority: priority.rank),
            idempotency_key=hashlib.sha256(f"{self.key_id}\n{key}".encode()).hexdigest() if key is not None else None,
        )


EVERYTHING = frozenset(Scope)
LOCAL = Caller(audit.LOCAL, EVERYTHING)  # on this host, in an installation without keys
LINK = Caller("link", frozenset({Scope.READ}), sees_everybodys=True)  # holds a signed link, good for one file
NOBODY = Caller("nobody", frozenset())  # whose key could not be looked up
_SCOPE_KEY = "wanworks.caller"
_FOR_ANOTHER = "wanworks.for_another"


def set_caller(connection: HTTPConnection, caller: Caller) -> None:
    connection.scope[_SCOPE_KEY] = caller


def caller_of(connection: HTTPConnection) -> Caller:
    """Whoever was let in; the routes' table sees to it that somebody was."""
    caller = connection.scope[_SCOPE_KEY]
    assert isinstance(caller, Caller)
    return caller


def is_known(connection: HTTPConnection) -> bool:
    return _SCOPE_KEY in connection.scope


def note_owner(connection: HTTPConnection, owner: str | None) -> None:
    """That something is done to a job of that owner."""
    if owner != caller_of(connection).key_id:
        connection.scope[_FOR_ANOTHER] = True


def is_for_another(connection: HTTPConnection) -> bool:
    """Whether what is done, is done to somebody else's job: only those who administer can."""
    return _FOR_ANOTHER in connection.scope
