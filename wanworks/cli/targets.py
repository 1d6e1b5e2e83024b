"""Where a video is to go, looked at before it is asked for: a mistake there is not to cost a generation."""

import tempfile
from contextlib import suppress
from pathlib import Path

from wanworks.errors import ConfigurationError


def check_target(out: Path | None, option: str = "--out") -> None:
    """Raises ConfigurationError where no video could be written to that file; None: to one in this folder."""
    try:
        reason = _reason(out)
    except (OSError, ValueError) as error:
        reason = f"cannot be written: {getattr(error, 'strerror', None) or 'no file can have that name'}"
    if reason is not None:
        raise ConfigurationError(f"{option} {out or Path().absolute()}: {reason}")


def _reason(out: Path | None) -> str | None:
    """Why not. Raises OSError, and ValueError for what no file can be called."""
    if out is None:
        with tempfile.TemporaryFile(dir=Path()):
            return None
    folder = out.parent
    if not folder.is_dir():
        reason = "is no folder" if folder.exists() else "does not exist; make it first"
        return f"the folder {folder.absolute()} {reason}"
    if out.is_dir():
        return f"is a folder; name a file in it, such as {out / 'video.mp4'}"
    if out.exists() and not out.is_file():
        return "is no ordinary file"
    part = out.with_name(f"{out.name}.partial")  # as the download names it
    was_there = part.exists()
    part.open("ab").close()
    if not was_there:
        with suppress(FileNotFoundError):
            part.unlink()
    return None
