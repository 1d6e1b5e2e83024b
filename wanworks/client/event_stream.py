"""Parse Server-Sent Events from bytes by the HTML standard (9.2.6), for the fields that our API sends."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]


class EventStream:
    """Receives bytes and returns complete events. `last_id` is for `Last-Event-ID`."""

    def __init__(self) -> None:
        self.last_id: str | None = None
        self._rest = b""
        self._name = ""
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events completed by these bytes. Raises ValueError for data that is not a JSON object."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = [self._line(line.removesuffix(b"\r").decode(errors="replace")) for line in lines]
        return [event for event in events if event is not None]

    def start_again(self) -> None:
        """Discard an incomplete event after the connection broke."""
        self._rest, self._name, self._id, self._data = b"", "", None, []

    def _line(self, line: str) -> Event | None:
        if not line:
            name, data = self._name, "\n".join(self._data)
            self.last_id = self._id or self.last_id
            self._name, self._id, self._data = "", None, []
            return Event(name, _object(data)) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self._id = value
        return None


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("an event's data is not a JSON object")
    return found
