"""Server-Sent Events out of bytes, as the HTML standard has them (9.2.6); of fields, those that our API sends."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]


class EventStream:
    """Fed with bytes as they come, tells events as they are whole. `last_id` is for `Last-Event-ID`."""

    def __init__(self) -> None:
        self.last_id: str | None = None
        self._rest = b""
        self._name = ""
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises ValueError for data that is no JSON object."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = [self._line(line.removesuffix(b"\r").decode(errors="replace")) for line in lines]
        return [event for event in events if event is not None]

    def start_again(self) -> None:
        """The connection broke off: what was not whole is void."""
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
        raise ValueError("an event's data is no JSON object")
    return found
