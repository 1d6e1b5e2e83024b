"""The LoRAs that a request names: those of the library that its caller may use, and those in the operator's folder."""

from collections.abc import Sequence
from pathlib import Path

from shared.catalogue.job_types import LoraFile
from shared.database.engine import Database
from shared.errors import FieldError
from shared.models.loras import folder, library
from wanworks.requests import Lora

_SHOWN = 20


class LoraNames:
    def __init__(self, database: Database, loras_dir: Path) -> None:
        self._database = database
        self._folder = loras_dir

    def files(self, loras: Sequence[Lora], only: str | None) -> tuple[tuple[LoraFile, ...], tuple[FieldError, ...]]:
        """Return the files of those from the library, and an error for each name that does not exist for this caller.

        `only`: the caller's key; None: a caller who may use all. Raises DatabaseUnavailable.
        """
        if not loras:
            return (), ()
        found = library.resolve(self._database, loras, only)
        there = folder.names(self._folder)
        wrong = [place for place, lora in enumerate(loras) if lora.name not in found and lora.name not in there]
        files = tuple(file for lora in loras for file in found.get(lora.name, ()))
        if not wrong:
            return files, ()
        offered = sorted(there | {row.name for row in library.visible(self._database, only)})
        shown = ", ".join(offered[:_SHOWN]) or "none"
        return files, tuple(
            FieldError(
                ("body", "loras", place, "name"),
                f"there is no LoRA {loras[place].name!r}; available: {shown}",
                "unknown",
            )
            for place in wrong
        )

    def gone(self, files: Sequence[LoraFile]) -> list[str]:
        """Return the names of the LoRAs whose files were removed."""
        return library.gone(self._database, files)
