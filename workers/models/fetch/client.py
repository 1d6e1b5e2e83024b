"""The uses of huggingface_hub: resolve a revision to a commit, list its files, and explain why the hub refuses.

The library's settings are set here, before it is imported: its Rust transport (Xet) supports no limit and no pause, and
saved logins must not be used implicitly. Its metadata calls wait without end by default; here each has a time limit.
No message or exception of this module contains the token, or a signed address.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatch
from functools import cache
from typing import TypeVar

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import httpx2
from huggingface_hub import HfApi, RepoFile, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils._http import hf_request_event_hook

from shared.errors import (
    FileNotOnHub,
    HubAuthRequired,
    HubGated,
    HubRefused,
    HubUnavailable,
    RepoNotFound,
    RevisionNotFound,
    WanworksError,
)
from wanworks.net.proxies import Routes, variable_for
from workers.models.fetch.plan import RemoteFile

T = TypeVar("T")

# What a diffusers pipeline needs. Never pickles: loading one runs code.
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.msgpack", "*.h5", "*.npz", "*.npy")


_OTHER_LOGINS = " (HF_TOKEN and saved logins are not read)"
_SHA = re.compile(r"[0-9a-f]{40}")
_OID = {True: re.compile(r"[0-9a-f]{64}"), False: _SHA}
_QUIET_SECONDS = 10.0  # in a metadata call
_WHOLE_SECONDS = 60.0  # for all of one metadata call
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524})


def offline() -> str:
    """Return which variable forbids requests to the hub. The library reads the second if the first is empty."""
    variable = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    return f"{variable} is set: the hub may not be asked; unset it, or take the models from elsewhere"


def through(endpoint: str) -> str:
    """Return which variable's proxy is used for the hub, as a phrase; empty for a direct connection."""
    variable = variable_for(endpoint)
    return f" through the proxy that {variable} names" if variable is not None else ""


def nothing() -> None:
    """Do nothing: a check that never stops."""


@dataclass(frozen=True)
class HubClient:
    """A client of one hub. The `check` of each call may raise to stop it, and is called five times a second."""

    endpoint: str
    token: str | None = field(default=None, repr=False)
    patience_seconds: float = 600.0  # how long an unavailable hub is retried

    def resolve(self, repo: str, revision: str = "main", *, check: Callable[[], None] = nothing) -> str:
        """Return the commit sha that a branch, tag or sha refers to now.

        Raises subclasses of HubRefused, and HubUnavailable after `patience_seconds`.
        """
        if _SHA.fullmatch(revision):
            return revision
        info = self._ask(repo, check, lambda api: api.model_info(repo, revision=revision, timeout=_QUIET_SECONDS))
        if info.sha is None or not _SHA.fullmatch(info.sha):
            raise HubRefused(f"the hub names no commit for {repo} at {revision}")
        return info.sha

    def list_files(
        self,
        repo: str,
        sha: str,
        patterns: Iterable[str] = PATTERNS,
        *,
        check: Callable[[], None] = nothing,
    ) -> list[RemoteFile]:
        """Return the commit's files that match a pattern and are no pickles, by path. Raises as `resolve` does."""

        def listed(api: HfApi) -> list[RepoFile]:
            tree = api.list_repo_tree(repo, recursive=True, revision=sha)
            return [item for item in tree if isinstance(item, RepoFile)]

        found = (_remote(repo, item) for item in self._ask(repo, check, listed) if wanted(item.path, patterns))
        return sorted(found, key=lambda file: file.path)

    def _ask(self, repo: str, check: Callable[[], None], question: Callable[[HfApi], T]) -> T:
        _prepare()
        api = HfApi(endpoint=self.endpoint, token=self.token or False, library_name="wanworks")
        began = time.monotonic()
        wait = 0.5
        while True:
            reason: str
            try:
                return _stoppably(lambda: question(api), check)
            except HfHubHTTPError as error:
                status, headers = error.response.status_code, error.response.headers
                refused = refusal(status, headers, repo, self.token is not None)
                if refused is not None:
                    raise refused from None
                reason, asked = f"answers {status}", retry_after(headers)
            except (HFValidationError, OfflineModeIsEnabled) as error:
                raise _unusable(error, repo) from None
            except (httpx2.HTTPError, ConnectionError, TimeoutError, json.JSONDecodeError) as error:
                reason, asked = said(error), None
            except (httpx2.InvalidURL, KeyError, TypeError, ValueError) as error:
                raise _unusable(error, repo) from None
            left = self.patience_seconds - (time.monotonic() - began)
            pause = max(wait, asked or 0.0)
            if pause > left:
                raise HubUnavailable(
                    f"the hub {reason}{through(self.endpoint)}; gave up after {self.patience_seconds:.0f} s"
                )
            _rest(pause, check)
            wait = min(2 * wait, 8.0)


def wanted(path: str, patterns: Iterable[str]) -> bool:
    """Return whether to fetch a file: it matches one of the patterns and is no pickle."""
    name = path.lower()
    return any(fnmatch(name, pattern) for pattern in patterns) and not any(fnmatch(name, each) for each in PICKLES)


def refusal(status: int, headers: Mapping[str, str], repo: str, with_token: bool) -> WanworksError | None:
    """Return the error that a response of the hub means; None if the request should be retried."""
    code = headers.get("X-Error-Code", "")
    if status in _TRANSIENT or status < 400:
        return None
    if code == "GatedRepo":
        if with_token:
            return HubGated(f"the hub's token has no access to {repo}; ask for it on the model's page")
        return HubAuthRequired(f"{repo} is gated: set WANWORKS_HUB_TOKEN to a token that has access{_OTHER_LOGINS}")
    if status == 401:
        if with_token:
            return HubAuthRequired(f"the hub does not accept the token for {repo}")
        return HubAuthRequired(
            f"the hub does not show {repo} without a token: it is private, or does not exist{_OTHER_LOGINS}"
        )
    if code == "RevisionNotFound":
        return RevisionNotFound(f"{repo} has no such revision on the hub")
    if code == "EntryNotFound":
        return FileNotOnHub(f"a file of {repo} is not on the hub")
    if status == 404:
        return RepoNotFound(f"the hub has no {repo}, or does not show it to this token")
    if status == 403:
        return HubGated(f"the hub forbids access to {repo}")
    return HubRefused(f"the hub answers {status} for {repo}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait by the server's ``Retry-After``, in either form, or ``RateLimit``'s reset."""
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            then = parsedate_to_datetime(value)
        except ValueError:
            return None
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        return max(0.0, (then - datetime.now(UTC)).total_seconds())
    limit = re.search(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("RateLimit", ""))
    return float(limit[1]) if limit else None


def said(error: BaseException) -> str:
    """Return a description of a connection error without an address."""
    match error:
        case httpx2.ConnectError() | ConnectionRefusedError():
            return "cannot be reached"
        case httpx2.TimeoutException() | TimeoutError():
            return "does not answer"
        case httpx2.RemoteProtocolError() | json.JSONDecodeError():
            return "breaks off or answers nonsense"
        case httpx2.NetworkError() | ConnectionError():
            return "breaks the connection"
        case _:
            return f"cannot be used ({type(error).__name__})"


@cache
def bytes_client() -> httpx2.Client:
    """Return a client for file bodies. Every request has its own connection, so that it can be closed at any time."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.Client(
        event_hooks={"request": [hf_request_event_hook]},
        follow_redirects=True,
        transport=_Routed(lambda proxy: httpx2.HTTPTransport(proxy=proxy, limits=limits)),
    )


@cache
def _prepare() -> None:
    """Give the library a client like its own, with a transport that limits waiting."""

    def patient() -> httpx2.Client:
        return httpx2.Client(
            event_hooks={"request": [hf_request_event_hook]},
            follow_redirects=True,
            timeout=None,
            transport=_Timed(_Routed(lambda proxy: httpx2.HTTPTransport(proxy=proxy))),
        )

    set_client_factory(patient)


class _Routed(httpx2.BaseTransport):
    """Sends each request directly or through the environment's proxy, as `wanworks.net.proxies` decides."""

    def __init__(self, make: Callable[[str | None], httpx2.BaseTransport]) -> None:
        self._routes = Routes(make)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return self._routes.to(str(request.url)).handle_request(request)

    def close(self) -> None:
        for route in self._routes.made():
            route.close()


class _Timed(httpx2.BaseTransport):
    """Sets timeouts: the library passes ``timeout=None`` in its metadata calls, which overrides those of its client."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        given = request.extensions.get("timeout") or {}
        names = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {name: given.get(name) or _QUIET_SECONDS for name in names}
        deadline = time.monotonic() + _WHOLE_SECONDS
        response = self._inner.handle_request(request)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Whole(response.stream, deadline)
        return response

    def close(self) -> None:
        self._inner.close()


class _Whole(httpx2.SyncByteStream):
    """A body with a limit for its total time."""

    def __init__(self, inner: httpx2.SyncByteStream, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._inner:
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the response takes too long")
            yield piece

    def close(self) -> None:
        self._inner.close()


def _remote(repo: str, item: RepoFile) -> RemoteFile:
    lfs = item.lfs is not None
    oid, size = (item.lfs.sha256, item.lfs.size) if item.lfs is not None else (item.blob_id, item.size)
    parts = item.path.split("/")
    unsafe = item.path.startswith("/") or "\\" in item.path or any(part in ("", ".", "..") for part in parts)
    if unsafe or not _OID[lfs].fullmatch(oid) or size < 0:
        raise HubRefused(f"the hub describes a file of {repo} that no repository can have")
    return RemoteFile(item.path, size, oid, lfs)


def _unusable(error: Exception, repo: str) -> WanworksError:
    match error:
        case OfflineModeIsEnabled():
            return HubUnavailable(offline())
        case HFValidationError():
            return RepoNotFound(f"{repo[:200]!r} is no name of a repository")
        case _:
            return HubRefused("the hub's address cannot be used, or what answers there is no hub")


def _stoppably(question: Callable[[], T], check: Callable[[], None]) -> T:
    """Return the response, or raise what `check` raises first. An abandoned request ends by its timeouts."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(question())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask, name="hub question", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        check()
    if errors:
        raise errors[0]
    return answers[0]


def _rest(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.2))
