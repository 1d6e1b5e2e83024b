"""What a search for a fallback starts from and returns."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from shared.catalogue.models import CatalogueEntry
from shared.management import reductions
from shared.states import REPLICA_READY, ReplicaState

Level = Literal["low", "medium", "high"]
Speed = Literal["fast", "medium", "slow"]


class Strategy(StrEnum):
    ALTERNATIVE_MODEL = "alternative_model"
    QUEUE_AND_WAIT = "queue_and_wait"
    MOCK_GENERATION = "mock_generation"
    DOWNLOAD_AND_RETRY = "download_and_retry"
    REDUCE_REQUIREMENTS = "reduce_requirements"
    HYBRID_APPROACH = "hybrid_approach"


@dataclass(frozen=True)
class Wish:
    """The request, and the weights of quality and speed."""

    model_id: str
    quality: Level = "medium"
    speed: Speed = "medium"
    resolution: str = "1280x720"
    max_wait_seconds: float | None = None


@dataclass(frozen=True)
class ModelFacts:
    """One model now. None: unknown, because it was never or cannot be measured."""

    entry: CatalogueEntry
    availability: ReplicaState
    carried: bool | None = None  # whether a live device has memory for its native type; None: no live device
    reduced: reductions.Request | None = None  # if none has: what fits a live device instead
    fetching: bool = False  # a download is running or queued
    fetchable: bool = False  # a live node has space for it
    bytes_left: int | None = None  # left to download
    bytes_per_second: float | None = None  # measured
    queue_seconds: float | None = None  # until a job queued now would start; 0.0: immediately
    performance: float | None = None  # its performance score

    @property
    def ready(self) -> bool:
        return self.availability in REPLICA_READY

    @property
    def usable(self) -> bool:
        """Ready, and a device can run it in its native type."""
        return self.ready and self.carried is not False

    @property
    def download_seconds(self) -> float | None:
        """Remaining bytes over the measured rate; None if either is unknown."""
        if self.bytes_left is None or not self.bytes_per_second:
            return None
        return self.bytes_left / self.bytes_per_second


@dataclass(frozen=True)
class Alternative:
    """Another model that could serve the request."""

    model_id: str
    compatibility: float  # 0.0 to 1.0
    performance_difference: float | None
    availability: ReplicaState
    reason: str
    quality_difference: str


@dataclass(frozen=True)
class Choice:
    """One strategy with its details. Waits are in seconds."""

    strategy: Strategy
    action: str
    message: str
    score: float
    alternative: str | None = None
    wait_seconds: float | None = None
    can_queue: bool = False
    parts: tuple[Strategy, ...] = ()  # of a hybrid
    quantization: str | None = None  # if the request is reduced
    resolution: str | None = None
    frames: int | None = None


@dataclass(frozen=True)
class Wait:
    """The wait until the requested model would start. None: not measurable."""

    download_seconds: float | None  # 0.0: nothing to download
    queue_seconds: float | None

    @property
    def seconds(self) -> float | None:
        if self.download_seconds is None or self.queue_seconds is None:
            return None
        return self.download_seconds + self.queue_seconds


@dataclass(frozen=True)
class Suggestion:
    alternative: Alternative | None  # the most compatible one, available or not
    choice: Choice
    others: tuple[Choice, ...]  # best first
    wait: Wait


# The weights of quality and speed.
