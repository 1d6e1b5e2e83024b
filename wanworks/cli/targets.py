"""Check a video's output path before the job is submitted, so that a mistake in it does not waste a generation."""

import tempfile
from contextlib import suppress
from pathlib import Path

from wanworks.errors import ConfigurationError


def check_target(out: Path | None, option: str = "--out") -> None:
    """Raise ConfigurationError if no video can be written to that file; None means a file in the working directory."""
    try:
        reason = _reason(out)
    except (OSError, ValueError) as error:
        reason = f"cannot be written: {getattr(error, 'strerror', None) or 'the name is not a valid file name'}"
    if reason is not None:
        raise ConfigurationError(f"{option} {out or Path().absolute()}: {reason}")


def _reason(out: Path | None) -> str | None:
    """Return why it cannot be written, or None. Raises OSError, and ValueError for an invalid file name."""
    if out is None:
        with tempfile.TemporaryFile(dir=Path()):
            return None
    folder = out.parent
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist; create it first"
        return f"the folder {folder.absolute()} {reason}"
    if out.is_dir():
        return f"is a folder; name a file in it, such as {out / 'video.mp4'}"
    if out.exists() and not out.is_file():
        return "is not a regular file"
    part = out.with_name(f"{out.name}.partial")  # as the download names it
    was_there = part.exists()
    part.open("ab").close()
    if not was_there:
        with suppress(FileNotFoundError):
            part.unlink()
    return None
