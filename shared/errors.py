"""The errors that wanworks raises on purpose. `api/http/errors.py` maps them to HTTP.

WanworksError
├── RequestError                 the request cannot be carried out
│   ├── MalformedRequest         the body cannot be parsed: broken JSON or multipart
│   │   └── UnknownAction        an action that the route does not know
│   ├── InvalidField             one or more fields are wrong
│   ├── NotEnoughMemory          no registered device has the memory for it
│   ├── Unauthenticated          the API key is missing or unknown
│   ├── Forbidden                the key may not do this
│   ├── LimitReached             the key has reached a limit
│   ├── NotFound                 no such model, job or artifact
│   ├── Conflict                 the current state does not allow it
│   ├── TooLarge                 the body is over the limit
│   └── UnsupportedMedia         a content type that the route does not accept
├── Unavailable                  a required service is unavailable; worth a retry
│   ├── DatabaseUnavailable
│   │   └── OutcomeUnknown       a commit was not answered: it may have been made or not
│   ├── ArchivesBusy             enough archives are being sent at a time
│   ├── HubUnavailable           the hub has sent nothing for long
│   └── StoreUnavailable         the bucket, or the mount, that holds the store
├── StoreFull                    the disk is full
├── StoreMismatch                the store under this path is not the one that the database names
├── ConfigurationError           settings or a catalogue file cannot be used
├── JobFailed                    ends a job as failed, with a code that clients may rely on
│   ├── OutOfMemory
│   ├── ModelUnavailable
│   ├── BadInput
│   ├── BadOutput                the output is not a picture, or not the requested video
│   ├── CannotRepair
│   ├── CannotPrepare            a copy of a model's weights cannot be written
│   ├── CannotFetch              a file of a LoRA could not be fetched
│   ├── HubUnreachable           the hub was unavailable for too long
│   ├── HubRefused               the hub refuses the request permanently
│   │   ├── HubAuthRequired      the token is missing or unknown
│   │   ├── HubGated             the token has no access to the repository
│   │   ├── RepoNotFound
│   │   ├── RevisionNotFound
│   │   └── FileNotOnHub
│   └── ChecksumMismatch         a file had the wrong content twice
└── AttemptStopped               ends an attempt without failing the job
    ├── Cancelled                the job was cancelled
    ├── Fenced                   another attempt owns the job now; this one's files are removed
    ├── Paused                   a download stops until it is resumed; its bytes are kept
    ├── Preempted                a download yields its slot to a more urgent one
    ├── Draining                 the worker is stopping; the job returns to the queue
    └── DeviceFailed             the device failed: a crash is counted, and the process ends
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from wanworks.errors import ConfigurationError as ConfigurationError
from wanworks.errors import ExitCode
from wanworks.errors import WanworksError as WanworksError


@dataclass(frozen=True)
class FieldError:
    """One wrong field: where it is, what is wrong with it, and the kind of mistake."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class FaultKind(StrEnum):
    """The kinds of faults of a device."""

    CUDA_ERROR = "cuda_error"
    FAILED_PROBE = "failed_probe"  # after an unforeseen error, the device computed wrong results or none
    PROCESS_DEATH = "process_death"  # of the process that ran a generation
    XID = "xid"  # reported by the driver


class RequestError(WanworksError):
    """The request cannot be carried out."""


class MalformedRequest(RequestError):
    """The request body cannot be read."""

    code = "malformed_request"


class UnknownAction(MalformedRequest):
    """There is no such action."""

    code = "unknown_action"


class InvalidField(RequestError):
    """One or more fields are wrong; `errors` lists each."""

    code = "validation_error"

    def __init__(self, *errors: FieldError) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{_path(error.loc)}: {error.msg}" for error in errors))

    @classmethod
    def of(cls, field: str, msg: str, type: str = "value_error") -> "InvalidField":
        """Return the error for one wrong field of the body."""
        return cls(FieldError(("body", field), msg, type))


class NotEnoughMemory(RequestError):
    """No registered device has the memory for this job."""

    code = "not_enough_memory"

    def __init__(
        self, message: str, missing: Sequence[Mapping[str, Any]], alternatives: Sequence[Mapping[str, Any]]
    ) -> None:
        self.missing = tuple(missing)  # for each device: how much is missing
        self.alternatives = tuple(alternatives)  # requests that would fit
        super().__init__(message)


class Unauthenticated(RequestError):
    """An API key is needed: send `Authorization: Bearer KEY`."""

    code = "unauthenticated"


class LimitReached(RequestError):
    """The key's limit is reached for now."""

    code = "limit_reached"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        self.retry_after_seconds = max(1, retry_after_seconds)
        super().__init__(message)


class Forbidden(RequestError):
    """This API key may not do that."""

    code = "forbidden"


class NotFound(RequestError):
    """There is no such thing."""

    code = "not_found"

    def __init__(self, kind: str, name: str, because: str = "") -> None:
        """`because`: sentences that say why it is not there, or what to do."""
        self.kind = kind
        super().__init__(f"{kind.capitalize()} not found: {name[:100]}{f'. {because}' if because else ''}")


class Conflict(RequestError):
    """The present state forbids it."""

    code = "conflict"


class TooLarge(RequestError):
    """The request body is too large."""

    code = "body_too_large"


class UnsupportedMedia(RequestError):
    """The content type is not one that this route accepts."""

    code = "unsupported_media_type"


class Unavailable(WanworksError):
    """A required service is temporarily unavailable."""

    exit_code = ExitCode.UNREACHABLE
    code = "unavailable"
    retry_after_seconds: ClassVar[int] = 5


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached."""

    code = "database_unavailable"


class OutcomeUnknown(DatabaseUnavailable):
    """The database did not confirm a change: it may have been made or not. Check, or repeat the request."""


class ArchivesBusy(Unavailable):
    """As many archives are being sent as this server sends at a time. Send the request again later."""

    code = "archives_busy"
    retry_after_seconds = 10


class HubUnavailable(Unavailable):
    """The model hub cannot be reached."""

    code = "hub_unavailable"
    retry_after_seconds = 60


class StoreUnavailable(Unavailable):
    """The store of artifacts cannot be reached."""

    code = "store_unavailable"


class StoreFull(WanworksError):
    """There is no room left on the disk."""

    code = "disk_full"
    needed_bytes: int | None = None  # what is still to be written; None: unknown


class StoreMismatch(WanworksError):
    """The store at this path is not the one that this installation uses."""

    exit_code = ExitCode.USAGE
    code = "store_mismatch"


class JobFailed(WanworksError):
    """The job failed."""

    code = "job_failed"
    retryable: ClassVar[bool] = False


class OutOfMemory(JobFailed):
    """The device has not enough memory for this job, even under the leanest profile."""

    code = "out_of_memory"
    retryable = True


class ModelUnavailable(JobFailed):
    """The model's files are not usable on this node."""

    code = "model_unavailable"
    retryable = True


class CannotFinish(JobFailed):
    """The process that encodes, checks and stores the video has died at each try."""

    code = "cannot_finish"
    retryable = True


class BadInput(JobFailed):
    """An input of the job cannot be used."""

    code = "bad_input"


class BadOutput(JobFailed):
    """The model produced frames that are not a picture."""

    # The same seed makes the same frames again.
    code = "bad_output"


class CannotRepair(JobFailed):
    """Broken files of a model could not be fetched again."""

    code = "cannot_repair"
    retryable = True


class CannotPrepare(JobFailed):
    """A copy of the model's weights in the form in which they are loaded could not be written."""

    code = "cannot_prepare"
    retryable = True


class CannotFetch(JobFailed):
    """The host of the URL could not be reached, or did not send the whole file."""

    code = "not_fetched"
    retryable = True


class HubUnreachable(JobFailed):
    """The model hub could not be reached for long."""

    code = "hub_unavailable"
    retryable = True


class HubRefused(JobFailed):
    """The model hub refuses the request."""

    code = "hub_refused"


class HubAuthRequired(HubRefused):
    """The model hub asks for a token, or does not accept the one that it was given."""

    code = "hub_auth_required"


class HubGated(HubRefused):
    """The model hub's token has no access to this repository."""

    code = "hub_gated"


class RepoNotFound(HubRefused):
    """The model hub has no such repository, or does not show it to this token."""

    code = "repo_not_found"


class RevisionNotFound(HubRefused):
    """The repository has no such revision."""

    code = "revision_not_found"


class FileNotOnHub(HubRefused):
    """The revision has no such file."""

    code = "file_not_on_hub"


class ChecksumMismatch(JobFailed):
    """A file was received twice with a wrong checksum."""

    code = "checksum_mismatch"
    retryable = True


class AttemptStopped(WanworksError):
    """This attempt ends here, without a verdict on the job."""


class Cancelled(AttemptStopped):
    """The job was cancelled."""

    code = "cancelled"


class Fenced(AttemptStopped):
    """Another attempt owns this job now."""

    code = "fenced"


class Paused(AttemptStopped):
    """The download was paused."""

    code = "paused"


class Preempted(AttemptStopped):
    """The job gave its slot or its device back: a more urgent one needs it, or the worker stops."""

    code = "preempted"


class Draining(AttemptStopped):
    """The worker is stopping; the job returns to the queue."""

    code = "draining"


class DeviceFailed(AttemptStopped):
    """The device failed. This process cannot use it any more."""

    code = "device_fault"

    def __init__(self, kind: FaultKind, detail: str) -> None:
        self.kind = kind
        self.detail = detail
        super().__init__(f"The device failed: {detail}")


def _path(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in loc if part not in ("body", "query")) or "body"
