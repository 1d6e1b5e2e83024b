"""Check how the jobs of a flow depend on one another. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from api.schemas.jobs.flows import ImageFrom
from shared.errors import FieldError
from shared.jobs.flows import plan

_SHOWN = 20


@dataclass(frozen=True)
class Place:
    """A job as far as it could be read: its place in the request, and what it depends on."""

    index: int
    name: str | None
    depends_on: tuple[str, ...]
    frames: Mapping[str, ImageFrom]  # that it takes of other jobs, by field
    makes_video: bool

    @property
    def all_names(self) -> tuple[str, ...]:
        """Return what it depends on, with the jobs of which it takes frames."""
        return tuple(dict.fromkeys((*self.depends_on, *(frame.job for frame in self.frames.values()))))


def wrong_fields(places: Sequence[Place]) -> list[FieldError]:
    """Return an error for each duplicate and unknown name, dependence on itself, and circle."""
    first: dict[str, Place] = {}
    wrong = []
    for place in places:
        if place.name is None:
            continue
        if place.name in first:
            msg = f"{place.name!r} is also the name of jobs.{first[place.name].index}; give each job a name of its own"
            wrong.append(_error(place, msg, "duplicate", "name"))
        else:
            first[place.name] = place
    for place in places:
        wrong += _wrong_names(place, first)
    return wrong or _circles(first)


def _wrong_names(place: Place, known: Mapping[str, Place]) -> list[FieldError]:
    wrong = []
    for at, name in enumerate(place.depends_on):
        if name in place.depends_on[:at]:
            wrong.append(_error(place, f"{name!r} is named twice", "duplicate", "depends_on", at))
        elif name == place.name:
            wrong.append(_error(place, "a job cannot depend on itself; remove it", "itself", "depends_on", at))
        elif name not in known:
            wrong.append(_error(place, _unknown(name, known), "unknown", "depends_on", at))
    for field, frame in place.frames.items():
        name, of_image = frame.job, ("params", field, "from")
        if name == place.name:
            wrong.append(_error(place, "a job cannot take a frame of itself", "itself", *of_image))
        elif name not in known:
            wrong.append(_error(place, _unknown(name, known), "unknown", *of_image))
        elif not known[name].makes_video:
            msg = f"{name!r} makes no video; name a job of the type generation"
            wrong.append(_error(place, msg, "not_supported", *of_image))
    return wrong


def _circles(known: Mapping[str, Place]) -> list[FieldError]:
    depends_on = {name: place.all_names for name, place in known.items()}
    _, left = plan.depth_order(depends_on)
    if not left:
        return []
    names = plan.circle(depends_on, left)
    place, following = known[names[0]], names[1 % len(names)]
    shown = " -> ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else []), names[0]])
    msg = f"the jobs depend on one another in a circle: {shown}; remove one of these dependencies"
    if following in place.depends_on:
        return [_error(place, msg, "circle", "depends_on", place.depends_on.index(following))]
    field = next((field for field, frame in place.frames.items() if frame.job == following), "image")
    return [_error(place, msg, "circle", "params", field, "from")]


def _unknown(name: str, known: Mapping[str, Place]) -> str:
    there = ", ".join(list(known)[:_SHOWN])
    return f"there is no job {name!r} in this flow; there are: {there}"


def _error(place: Place, msg: str, kind: str, *field: str | int) -> FieldError:
    return FieldError(("body", "jobs", place.index, *field), msg, kind)
