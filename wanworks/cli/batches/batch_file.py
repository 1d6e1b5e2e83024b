"""Read a batch file: one JSON object per line. The whole file is validated before anything is submitted.

Only the form of each line is checked here. The API checks a model's limits when the line is submitted.
"""

import codecs
import contextlib
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wanworks.errors import ConfigurationError
from wanworks.requests import GenerationRequest

_SHOWN = 20  # errors shown of a file with many
_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_ENDS = re.compile(rb"\r\n|\n|\r")
# Ignored around a line: blanks, page breaks, the NULs and Ctrl-Z at the end of some systems' files, and byte order
# marks of files that were joined.
_EDGES = " \t\r\n\x0b\x0c\x00\x1a\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000\ufeff"
_PICTURES = ("image", "last_image")
_OURS = (*_PICTURES, "name")  # fields that are not sent to the API unchanged


@dataclass(frozen=True)
class Line:
    """One generation. `key` identifies it permanently: the same line elsewhere in the file has the same key."""

    number: int
    key: str  # hash of its content and its pictures' bytes; equal lines are numbered
    name: str  # of its file, without the extension
    fields: dict[str, Any]  # as the API takes them, except the pictures
    image: Path | None
    last_image: Path | None = None

    @property
    def pictures(self) -> dict[str, Path]:
        """Return the files of its pictures, by field."""
        files = {"image": self.image, "last_image": self.last_image}
        return {field: path for field, path in files.items() if path is not None}

    @property
    def label(self) -> str:
        return f"line {self.number} ({self.name})"


def read_batch(path: Path) -> list[Line]:
    """Return the lines of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, without blank ones.

    Paths of pictures are relative to the file's folder.

    Raises ConfigurationError with the line and the field of each error.
    """
    text = _text(path)
    lines: list[Line] = []
    wrong: list[str] = []
    alike: Counter[str] = Counter()
    names: dict[str, tuple[str, int]] = {}
    for number, row in _rows(text):
        asked, pictures, mistakes = _read(row, path.parent)
        if mistakes:
            wrong += (f"line {number}: {mistake}" for mistake in mistakes)
            continue
        content = _hash(asked, pictures)
        key = hashlib.sha256(f"{content} {alike[content]}".encode()).hexdigest()
        alike[content] += 1
        name = asked.get("name") or f"{number:04d}-{key[:8]}"
        if (same := _same_file(name)) in names:
            other, there = names[same]
            how = "is" if other == name else f"is the same file as {other!r} on many disks, which is"
            wrong.append(f"line {number}: name: {name!r} {how} already the name of line {there}")
            continue
        names[same] = (name, number)
        fields = {field: value for field, value in asked.items() if field not in _OURS}
        lines.append(Line(number, key, name, fields, pictures.get("image"), pictures.get("last_image")))
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        raise ConfigurationError(f"--batch {path}: " + "\n  ".join(["", *wrong[:_SHOWN], *more]).strip())
    if not lines:
        raise ConfigurationError(f"--batch {path}: the file has no lines")
    return lines


def _text(path: Path) -> str:
    """Return the file's text. Raises ConfigurationError with the line that cannot be decoded."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--batch {path}: {error.strerror}") from None
    encoding = json.detect_encoding(content)  # by a byte order mark, else by the zeros among the first bytes
    if not encoding.startswith("utf-8"):
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if content.startswith(_MARKS) or text.lstrip().startswith("{"):
                return text
        if content.startswith(_MARKS):
            raise ConfigurationError(f"--batch {path}: is not valid {encoding.upper()}, which its first bytes indicate")
        encoding = "utf-8"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(_ENDS.findall(content, 0, error.start)) + 1
        byte = f"0x{content[error.start]:02x} at byte {error.start}"
        raise ConfigurationError(
            f"--batch {path}: line {line}: is not UTF-8 ({byte}); save the file as UTF-8"
        ) from None


def _rows(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers as editors count them.

    A line ends at a line feed. A carriage return between JSON tokens is whitespace, but if the text is then not valid
    JSON, it ends a line. No other character does: a prompt may contain U+2028.
    """
    number = 1
    for piece in text.split("\n"):
        parts = piece.removesuffix("\r").split("\r")
        rows = [piece] if len(parts) == 1 or _is_json(piece) else parts
        for place, row in enumerate(rows):
            if bare := row.strip(_EDGES):
                yield number + place, bare
        number += len(parts)


def _is_json(row: str) -> bool:
    try:
        json.loads(row.strip(_EDGES), strict=False)
        return True
    except (ValueError, RecursionError):
        return False


def _same_file(name: str) -> str:
    """Return the same key for names that are one file on disks that ignore case or Unicode normalisation."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _read(row: str, folder: Path) -> tuple[dict[str, Any], dict[str, Path], list[str]]:
    """Return the request of one line, its pictures by field, and its errors."""
    try:
        asked = json.loads(row, strict=False)  # accept unescaped tabs and form feeds in a prompt
    except json.JSONDecodeError as error:
        found = row[error.pos : error.pos + 1]
        odd = f", found U+{ord(found):04X}" if found and not " " < found < "\x7f" else ""
        return {}, {}, [f"is not JSON: {error.msg} at column {error.pos + 1}{odd}"]
    except (ValueError, RecursionError):
        return {}, {}, ["is JSON that cannot be read: nested too deep, or a number too long"]
    if not isinstance(asked, dict):
        return {}, {}, ["is not a JSON object"]
    mistakes = []
    try:
        GenerationRequest.model_validate({name: value for name, value in asked.items() if name not in _OURS})
    except ValidationError as error:
        mistakes = [_sentence(item) for item in error.errors(include_url=False, include_context=False)]
    if asked.get("count", 1) != 1 and not any(mistake.startswith("count:") for mistake in mistakes):
        mistakes.append("count: is not possible in a batch; write a line for each seed")
    pictures = {}
    for field in _PICTURES:
        path, mistake = _picture(field, asked.get(field), folder)
        if path is not None:
            pictures[field] = path
        mistakes += filter(None, (mistake,))
    return asked, pictures, [*mistakes, *filter(None, (_wrong_name(asked.get("name")),))]


def _sentence(item: Any) -> str:
    field = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    return f"{field}: {str(item['msg']).removeprefix('Value error, ')}"


def _picture(field: str, value: object, folder: Path) -> tuple[Path | None, str | None]:
    if value is None:
        return None, None
    if not isinstance(value, str) or not value:
        return None, f"{field}: must be the path of a file"
    path = folder / value
    try:
        return (path, None) if path.is_file() else (None, f"{field}: there is no file {path}")
    except OSError as error:
        return None, f"{field}: {path}: {error.strerror}"


def _wrong_name(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not 0 < len(name.encode(errors="surrogatepass")) <= 200:
        return "name: must be a text of 1 to 200 bytes"
    if name.startswith(".") or "/" in name or not name.isprintable():
        return "name: must be a file's name, without a folder and not hidden"
    return None


def _hash(asked: dict[str, Any], pictures: Mapping[str, Path]) -> str:
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode())
    for path in pictures.values():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
