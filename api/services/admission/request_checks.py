"""Checks of a request that need neither the model nor the key: its pictures, its times, its webhook."""

from collections.abc import Set
from datetime import timedelta

from api.http import images
from api.http.body import ReceivedRequest
from shared import clock
from shared.errors import FieldError, InvalidField
from shared.net import outbound
from shared.net.outbound import Allowed
from shared.settings import Settings
from wanworks.net.urls import ForbiddenAddress
from wanworks.requests import GenerationRequest

_FARTHEST_START = timedelta(days=366)


def shape_of_the_image(received: ReceivedRequest) -> tuple[int, int] | None:
    """Return width and height of the image if they decide the size of the video."""
    if received.request.fit != "auto" or received.image is None:
        return None
    return images.upright_size(received.image)


def impossible_times(request: GenerationRequest) -> tuple[FieldError, ...]:
    """Return an error for a start that is too far away, or for an end of the time to start that has passed."""
    wrong = []
    now = clock.now()
    if request.start_after is not None and request.start_after > now + _FARTHEST_START:
        msg = f"is more than {_FARTHEST_START.days} days from now; give an earlier time"
        wrong.append(FieldError(("body", "start_after"), msg, "too_late"))
    if request.start_before is not None:
        earliest = now if request.start_after is None else max(now, request.start_after)
        if request.start_before <= earliest:
            what = "has passed already" if request.start_before <= now else "is not after `start_after`"
            wrong.append(FieldError(("body", "start_before"), f"{what}; give a later time, or none", "too_early"))
    return tuple(wrong)


def wrong_pictures(received: ReceivedRequest, known: Set[str | int]) -> tuple[FieldError, ...]:
    """Return the errors of the pictures of a request that is refused anyway, to report all errors together.

    `known`: fields that have an error already.
    """
    wrong: tuple[FieldError, ...] = ()
    for field, content in received.pictures.items():
        if field in known:
            continue
        try:
            images.normalise(content, field)
        except InvalidField as error:
            wrong += error.errors
        finally:
            images.give_memory_back()
    return wrong


def refused_webhook(url: str, settings: Settings) -> tuple[FieldError, ...]:
    """Return an error if the outbound guard would never allow requests to the URL."""
    try:
        outbound.check_askable(url, Allowed.of(settings.outbound_allow))
    except ForbiddenAddress as error:
        msg = f"{error.message}, so no webhook can be sent there; give a public URL"
        return (FieldError(("body", "webhook_url"), msg, error.code),)
    return ()
