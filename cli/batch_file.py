"""A file of generations to be made: one JSON object a line. Read whole and judged before anything is sent.

Judged is the shape of each line. What a model can do, the API knows, and says it of the line when that is sent.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.errors import ConfigurationError
from shared.job_types import GenerationRequest

_SHOWN = 20  # mistakes, of a file that is full of them
_OURS = ("image", "name")  # the fields that the API does not see as they stand in the file


@dataclass(frozen=True)
class Line:
    """One generation. `key` names it for ever: the same line in another place of the file keeps it."""

    number: int
    key: str  # of all that stands in it and of its image's bytes; of lines alike, also of which of them it is
    name: str  # of its file, without the ending
    fields: dict[str, Any]  # as the API takes them, but for the image
    image: Path | None

    @property
    def label(self) -> str:
        return f"line {self.number} ({self.name})"


def read_batch(path: Path) -> list[Line]:
    """The lines of a file; empty ones are passed over. Images are found from the file's own folder.

    Raises ConfigurationError that names the line and the field of each mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--batch {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--batch {path}: is not UTF-8 at byte {error.start}") from None
    lines: list[Line] = []
    wrong: list[str] = []
    alike: Counter[str] = Counter()
    names: dict[str, int] = {}
    for number, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        asked, image, mistakes = _read(row, path.parent)
        if mistakes:
            wrong += (f"line {number}: {mistake}" for mistake in mistakes)
            continue
        content = _hash(asked, image)
        key = hashlib.sha256(f"{content} {alike[content]}".encode()).hexdigest()
        alike[content] += 1
        name = asked.get("name") or f"{number:04d}-{key[:8]}"
        if name in names:
            wrong.append(f"line {number}: name: {name!r} is line {names[name]}'s already")
            continue
        names[name] = number
        fields = {field: value for field, value in asked.items() if field not in _OURS}
        lines.append(Line(number, key, name, fields, image))
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        raise ConfigurationError(f"--batch {path}: " + "\n  ".join(["", *wrong[:_SHOWN], *more]).strip())
    if not lines:
        raise ConfigurationError(f"--batch {path}: has no line")
    return lines


def _read(row: str, folder: Path) -> tuple[dict[str, Any], Path | None, list[str]]:
    """What one line asks for, its image, and what is wrong with it."""
    try:
        asked = json.loads(row)
    except ValueError as error:
        return {}, None, [f"is not JSON: {error}"]
    if not isinstance(asked, dict):
        return {}, None, ["is not a JSON object"]
    mistakes = []
    try:
        GenerationRequest.model_validate({name: value for name, value in asked.items() if name not in _OURS})
    except ValidationError as error:
        mistakes = [_sentence(item) for item in error.errors(include_url=False, include_context=False)]
    image, mistake = _image(asked.get("image"), folder)
    return asked, image, [*mistakes, *filter(None, (mistake, _wrong_name(asked.get("name"))))]


def _sentence(item: Any) -> str:
    field = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    return f"{field}: {str(item['msg']).removeprefix('Value error, ')}"


def _image(value: object, folder: Path) -> tuple[Path | None, str | None]:
    if value is None:
        return None, None
    if not isinstance(value, str) or not value:
        return None, "image: must be the path of a file"
    path = folder / value
    return (path, None) if path.is_file() else (None, f"image: there is no file {path}")


def _wrong_name(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not 0 < len(name.encode()) <= 200:
        return "name: must be a text of 1 to 200 bytes"
    if name.startswith(".") or "/" in name or not name.isprintable():
        return "name: must be a file's name, without a folder and not hidden"
    return None


def _hash(asked: dict[str, Any], image: Path | None) -> str:
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    if image is not None:
        with image.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
