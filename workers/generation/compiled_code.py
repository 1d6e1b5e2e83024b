"""Where compiled code is kept. Importing this module loads no torch."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def keep_in(home: Path) -> None:
    """Keep compiled code in the home folder, separately for each version of torch, unless the environment says where.

    Call it before torch is imported: torch itself sets the variable to a temporary folder when it is first needed.
    """
    try:
        folder = home / "compiled" / f"torch-{version('torch')}"
    except PackageNotFoundError:  # each job reports that
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
