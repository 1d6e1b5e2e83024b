"""Hashing a model's files: the full integrity scan against openssl, run on as many files at once."""

import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from workers.models.checksums import expected_files, read_files

if TYPE_CHECKING:
    from tests.bench.bench import Bench
    from tests.bench.support.row import Row

_FILES = 6
_FILE_BYTES = 50_000_000


def integrity(bench: "Bench", rounds: int = 7) -> "list[Row]":
    """300 MB of weights in six files, read from the page cache by both; medians of alternating rounds."""
    from tests.bench.support.row import Row

    if shutil.which("openssl") is None:
        return [Row("full integrity scan over openssl", "not measured: no openssl here", ">= 0.9", None)]
    snapshot = _repo(bench.folder / "integrity")
    files = sorted(path for path in snapshot.rglob("*.safetensors"))
    cores = len(os.sched_getaffinity(0))
    ours, theirs = [], []
    _openssl(files, cores)  # the files are in the page cache from here on
    for _ in range(rounds):
        theirs.append(_openssl(files, cores))
        ours.append(_scan(snapshot))
    ratio = statistics.median(theirs) / statistics.median(ours)
    size = _FILES * _FILE_BYTES / 1e6
    rates = f"{size / statistics.median(ours):.0f} over {size / statistics.median(theirs):.0f} MB/s, {cores} at once"
    return [
        Row(
            f"full integrity scan of 300 MB over openssl dgst -sha256 ({rates})", f"{ratio:.2f}", ">= 0.9", ratio >= 0.9
        )
    ]


def _scan(snapshot: Path) -> float:
    """Seconds of a full scan, from listing what is expected to the last verdict."""
    began = time.perf_counter()
    reads = []
    expected = expected_files(snapshot, {})
    for _ in read_files(snapshot, expected, {}, check=lambda: None, came=reads.append):
        pass
    seconds = time.perf_counter() - began
    proven = {read.path: read.found.oid for read in reads if read.found is not None}
    assert sum(proven[file.path] == file.oid for file in expected if file.oid) == _FILES
    return seconds


def _openssl(files: list[Path], at_once: int) -> float:
    """Seconds of one process for each file, as many at once as the scan has threads."""
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(_openssl_one, files))
    return time.perf_counter() - began


def _openssl_one(file: Path) -> None:
    subprocess.run(["openssl", "dgst", "-sha256", str(file)], check=True, capture_output=True)


def _repo(folder: Path) -> Path:
    """A snapshot of random weights in the cache layout, made once."""
    snapshot, blobs = folder / "snapshots" / ("a" * 40), folder / "blobs"
    with contextlib.suppress(FileExistsError):
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for place in range(_FILES):
            size = _FILE_BYTES
            tensor = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
            header = json.dumps(tensor).encode()
            content = len(header).to_bytes(8, "little") + header + os.urandom(size)
            name = hashlib.sha256(content).hexdigest()
            (blobs / name).write_bytes(content)
            (snapshot / f"part-{place}.safetensors").symlink_to(f"../../blobs/{name}")
    return snapshot
