"""Where things lie in a store, whether that is a directory or a bucket, and whose store it is. Pure.

    marker                                 says which installation it belongs to
    inputs/<job>/<name>                    what the client sent
    artifacts/<job>/<attempt>/<name>       what an attempt made; only the winning attempt's is ever served

Both kinds lie alike, so that the one can be copied into the other. Names come from the code or are checked here.
"""

import re
from dataclasses import dataclass

from shared.errors import NotFound, StoreMismatch

MARKER = "marker"
INPUTS = "inputs"
ARTIFACTS = "artifacts"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class OrphanedFiles:
    """A job that has files here which nothing has touched for a while, and which attempts of it have some."""

    job_id: str
    attempts: tuple[int, ...]


def artifact_name(name: str) -> str:
    """The name, if it can be one. Raises NotFound."""
    if _NAME.fullmatch(name) is None:
        raise NotFound("artifact", name)
    return name


def must_mark(found: str | None, installation: str, place: str, *, create: bool) -> bool:
    """Whether the marker is still to be written; `found` is what the one that is there says.

    Only who may `create` marks a store: a node with the wrong mount or bucket refuses to start instead of filling what
    nobody else sees. Raises StoreMismatch.
    """
    if found is None:
        if not create:
            raise StoreMismatch(f"{place} has no store marker: this node does not see the installation's store")
        return True
    if found.strip() != installation:
        raise StoreMismatch(f"{place} belongs to another installation: its marker is not the one in the database")
    return False
