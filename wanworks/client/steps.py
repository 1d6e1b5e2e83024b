"""What a call of the API needs done, step by step. A call is a generator: it yields steps, is sent what came of them,
and returns its result, so that each call is written once and `Client` and `AsyncClient` both carry it out.

Nothing here, and no call, does I/O of its own.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import httpx

T = TypeVar("T")

Method = Literal["GET", "POST", "DELETE"]


@dataclass(frozen=True)
class Ask:
    """One request, its whole body read. The answer: `Answer`."""

    method: Method
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    json: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None  # None: the client's own
    repeatable: bool = True  # doing it twice is doing it once


@dataclass(frozen=True)
class Open:
    """One GET whose body is read in parts. The answer: `Answer`, with a `stream` to `Read` where it is a success."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    quiet_seconds: float | None = None  # how long the server may say nothing
    once: bool = False  # whoever asks answers a failure by himself


@dataclass(frozen=True)
class Answer:
    """What the server said. `url` as it was asked in the end; `content` is whole, or empty where there is a stream."""

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
    """The next bytes of an opened stream; none at its end."""

    stream: object


@dataclass(frozen=True)
class Close:
    """An opened stream is wanted no more."""

    stream: object


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Work:
    """Something with files: done beside the event loop, where there is one. The answer: what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Tell(Generic[T]):
    """A value for whoever iterates."""

    value: T


Step: TypeAlias = Ask | Open | Read | Close | Pause | Work
Call: TypeAlias = Generator[Step, Any, T]
Telling: TypeAlias = Generator[Step | Tell[T], Any, None]


def relayed(
    call: Generator[Step | Tell[Any], Any, T],
    instead: Callable[[Step | Tell[Any]], Generator[Step | Tell[Any], Any, Any]],
) -> Generator[Step | Tell[Any], Any, T]:
    """The call, with what `instead` makes of each of its steps in the step's place."""
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


class Course(Generic[T]):
    """A call on its way: which `step` is next (None at the end), and the `result` then."""

    def __init__(self, call: Generator[Step | Tell[Any], Any, T]) -> None:
        self._call = call
        self.result: T | None = None
        self.step: Step | Tell[Any] | None = None
        self.took(None)

    def took(self, outcome: Any) -> None:
        """The step was done, and this came of it."""
        try:
            self.step = self._call.send(outcome)
        except StopIteration as end:
            self.step, self.result = None, end.value

    def failed(self, error: Exception) -> None:
        """The step failed; raises what the call makes of that, unless it has an answer to it."""
        try:
            self.step = self._call.throw(error)
        except StopIteration as end:
            self.step, self.result = None, end.value

    def close(self) -> None:
        self._call.close()
