"""What a process of a gang knows about its place in it, and what its members say to the process that leads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MEET_SECONDS = 60.0  # within this time all processes join, once each has loaded the model


@dataclass(frozen=True)
class Seat:
    """The place of one process in a gang. Rank 0 leads: it decodes, and decides when all stop."""

    rank: int
    size: int
    meeting: Path  # a file that all of them use to find each other
    arrive: Callable[[], None]  # returns once every process has loaded the model; raises to stop


@dataclass(frozen=True)
class Member:
    """Another device of the gang."""

    key: str
    label: str  # of WANWORKS_DEVICE
    visible: str  # of CUDA_VISIBLE_DEVICES


class StoppedByLeader(Exception):
    """The leader has told all processes to stop after this step."""


def arrived() -> str:
    """Return the line by which a member says that it has loaded the model."""
    return "arrived"


def failed(code: str, message: str) -> str:
    """Return the line by which a member says why it ends."""
    return f"failed {code} {' '.join(message.split())}"
