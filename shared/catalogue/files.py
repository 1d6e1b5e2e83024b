"""Read a catalogue file: TOML tables that add to the default entries or replace them. Errors name the line."""

import logging
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared import invalid_values
from shared.catalogue import presets
from shared.catalogue.entries import CatalogueEntry, extended
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)


def read(path: Path, default: Iterable[CatalogueEntry]) -> tuple[CatalogueEntry, ...]:
    """Return the default entries and presets with the file's tables. Raises ConfigurationError with the line."""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"catalogue {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"catalogue {path}: {error}") from None
    unknown = set(content) - {"models"}
    if unknown or not isinstance(content.get("models"), dict):
        key = sorted(unknown)[0] if unknown else "models"
        raise ConfigurationError(f"catalogue {path}, line {_line(text, key)}: expected only [models.ID] tables")
    entries = {entry.model_id: entry for entry in default}
    own: set[str] = set()  # the ids that the file has defined so far
    _follow(entries, own)
    for model_id, table in content["models"].items():
        entries[model_id] = _entry(path, text, model_id, table, entries)
        own.add(model_id)
        _follow(entries, own)
    taken = set(entries)
    for entry in entries.values():
        for alias in entry.aliases:
            if alias in taken:
                where = f"catalogue {path}, line {_line(text, entry.model_id, 'aliases')}: [models.{entry.model_id}]"
                raise ConfigurationError(f"{where} aliases: {alias!r} is already the name or alias of a model")
            taken.add(alias)
    return tuple(entries.values())


def _entry(path: Path, text: str, model_id: str, table: Any, entries: Mapping[str, CatalogueEntry]) -> CatalogueEntry:
    def refuse(reason: str, *keys: str) -> ConfigurationError:
        line = _line(text, model_id, *keys)
        return ConfigurationError(f"catalogue {path}, line {line}: [models.{model_id}] {reason}")

    if not isinstance(table, dict):
        raise refuse("must be a table")
    base = table.get("extends")
    if base is not None and base not in entries:
        raise refuse(f"extends {base!r}, which is not an entry", "extends")
    try:
        return extended(model_id, table, entries)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(part) for part in first["loc"]]
        raise refuse(f"{'.'.join(keys) or 'entry'}: {invalid_values.message(first)}", *keys) from None


def _follow(entries: dict[str, CatalogueEntry], own: set[str]) -> None:
    """Derive the default presets that the file does not define from the present entries.

    A preset is left out while it does not fit an entry that the file has changed.
    """
    for model_id, table in presets.DEFAULT_PRESETS.items():
        if model_id in own:
            continue
        try:
            entries[model_id] = extended(model_id, table, entries)
        except ValueError as error:
            entries.pop(model_id, None)
            log.warning("catalogue: %s does not fit the changed %s: %s", model_id, table["extends"], error)


def _line(text: str, *keys: str) -> int:
    """Return the line of the innermost of `keys`; of the last one found if an inner key is absent."""
    lines = text.splitlines()
    found = 0
    for key in keys:
        pattern = re.compile(rf"""(^|[\[.\s{{,"']){re.escape(key)}["']?(\s*[=\].]|$)""")
        found = next((index for index in range(found, len(lines)) if pattern.search(lines[index])), found)
    return found + 1
