"""The steps of an API call. A call is a generator: it yields steps, receives their results, and returns its own result.
Each call is thus written once, and `Client` and `AsyncClient` both carry it out.

Neither this module nor a call does I/O itself.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import httpx

T = TypeVar("T")

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True)
class Send:
    """Send a request and read the whole body. Result: `Answer`."""

    method: Method
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    json: object = None
    file: Path | None = None  # whose content is the body, in place of `json`
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None  # None: the client's default
    repeatable: bool = True  # sending it twice has the same effect as once


@dataclass(frozen=True)
class Open:
    """Send a GET whose body is read in parts. Result: `Answer`, with a `stream` to `Read` if it succeeded."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    quiet_seconds: float | None = None  # how long the server may send nothing
    once: bool = False  # the call handles a failure itself


@dataclass(frozen=True)
class Answer:
    """A response. `url` is the final one; `content` is complete, or empty if there is a stream."""

    status: int
    headers: httpx.Headers
    url: str
    content: bytes = b""
    stream: object = None

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Read:
    """Read the next bytes of an opened stream; none at its end."""

    stream: object


@dataclass(frozen=True)
class Close:
    """Close an opened stream."""

    stream: object


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Blocking:
    """Run a function that uses files, outside the event loop if there is one. Result: what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Emit(Generic[T]):
    """A value for the caller's iteration."""

    value: T


Step: TypeAlias = Send | Open | Read | Close | Pause | Blocking
Call: TypeAlias = Generator[Step, Any, T]
Emitting: TypeAlias = Generator[Step | Emit[T], Any, None]


def relayed(
    call: Generator[Step | Emit[Any], Any, T],
    instead: Callable[[Step | Emit[Any]], Generator[Step | Emit[Any], Any, Any]],
) -> Generator[Step | Emit[Any], Any, T]:
    """Run the call with each of its steps replaced by what `instead` returns for it."""
    outcome: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = call.send(outcome) if error is None else call.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome, error = None, None
            try:
                outcome = yield from instead(step)
            except Exception as failure:  # the call's own to answer
                error = failure
    finally:
        call.close()


class Running(Generic[T]):
    """A running call: the next `step` (None at the end), and then the `result`."""

    def __init__(self, call: Generator[Step | Emit[Any], Any, T]) -> None:
        self._call = call
        self.result: T | None = None
        self.step: Step | Emit[Any] | None = None
        self.took(None)

    def took(self, outcome: Any) -> None:
        """Continue the call with the step's result."""
        try:
            self.step = self._call.send(outcome)
        except StopIteration as end:
            self.step, self.result = None, end.value

    def failed(self, error: Exception) -> None:
        """Continue the call with the step's error. Raises what the call raises, unless it handles the error."""
        try:
            self.step = self._call.throw(error)
        except StopIteration as end:
            self.step, self.result = None, end.value

    def close(self) -> None:
        self._call.close()
