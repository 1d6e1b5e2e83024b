"""Repos of random weights in the Hugging Face cache layout, for hubs of tests to serve."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path


def make_repo(root: Path, repo: str, files: Mapping[str, bytes | int], revision: str = "main") -> str:
    """Write a commit of files (content, or a number of random bytes) and point `revision` to it. Return its sha."""
    folder = root / f"models--{repo.replace('/', '--')}"
    contents = {path: os.urandom(content) if isinstance(content, int) else content for path, content in files.items()}
    oids = {path: checksum(path, content) for path, content in contents.items()}
    sha = hashlib.sha1(repr(sorted(oids.items())).encode()).hexdigest()
    for path, content in contents.items():
        blob = folder / "blobs" / oids[path]
        link = folder / "snapshots" / sha / path
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(blob, link.parent))
    reference = folder / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(sha)
    return sha


def checksum(path: str, content: bytes) -> str:
    """Weights are stored as large files, all other files in git."""
    if path.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
