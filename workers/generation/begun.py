"""A generation that is under way on the device, and its decoded frames."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.errors import Fenced
from shared.telemetry import logs
from workers.attempts.ahead import Turn, clear_stack
from workers.generation import run as generation
from workers.generation.context import Decoded, GenerationContext
from workers.generation.link import Link

if TYPE_CHECKING:
    import numpy


@dataclass
class Begun:
    """A generation that may be under way on the device."""

    context: GenerationContext
    link: Link
    turn: Turn
    decode: "Callable[[], tuple[Decoded, list[numpy.ndarray]]]" = field(init=False)  # waits for its frames


def decoded(begun: Begun) -> "tuple[Decoded, list[numpy.ndarray]]":
    """Return what the device makes of the generation, and leave the device to the next one."""
    try:
        made = generation.decode(begun.context)
    except BaseException:
        begun.turn.free_device(decoded=False)
        raise
    begun.turn.free_device(decoded=True)
    return made


def decoded_after(before: Turn, begun: Begun) -> "tuple[Decoded, list[numpy.ndarray]]":
    """Return the same once the generation before has left the device. Raises Fenced if this one must not begin."""
    if not before.wait_until_free():
        raise Fenced()
    try:
        with logs.bound(job_id=begun.context.job_id, attempt=begun.context.attempt):
            return decoded(begun)
    except BaseException as error:
        # Another thread keeps the error. The tensors that its stack holds must not stay on the device.
        clear_stack(error)
        raise
