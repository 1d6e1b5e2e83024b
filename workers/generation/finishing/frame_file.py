"""Frames in a file on the node's disk: raw bytes of uint8, frame after frame, of one size.

They are written while the next ones are decoded. They are not synced: the file serves only until the host stops.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy

log = logging.getLogger("wanworks.generation")

NAME = "frames.raw"


class FrameFile:
    """Writes a video's frames in a thread of its own. It never raises: `close` returns whether all were written."""

    def __init__(self, path: Path, count: int, spare_bytes: int) -> None:
        """`count`: how many frames will come; `spare_bytes`: what must stay free on the disk beside them."""
        self._path = path
        self._count = count
        self._spare = spare_bytes
        self._pool = ThreadPoolExecutor(1, "frames")
        self._writes: dict[int, Future[None]] = {}
        self._descriptor: int | None = None

    def add(self, index: int, frame: numpy.ndarray) -> None:
        """Write a frame; again, if decoding was repeated. `frame` must not change afterwards."""
        self._writes[index] = self._pool.submit(self._write, index, frame)

    def close(self) -> bool:
        """Wait for the writes. Return whether the file is complete."""
        self._pool.shutdown(wait=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        failed = [error for write in self._writes.values() if (error := write.exception()) is not None]
        if failed:
            log.warning("the frames cannot be written to %s: %s", self._path.parent, failed[0])
        return not failed and len(self._writes) == self._count

    def _write(self, index: int, frame: numpy.ndarray) -> None:
        if self._descriptor is None:
            free, needed = shutil.disk_usage(self._path.parent).free, self._count * frame.nbytes
            if free < needed + self._spare:
                raise OSError(f"{needed / 1e6:.0f} MB are needed, and {free / 1e6:.0f} MB are free")
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        left, at = numpy.ascontiguousarray(frame).reshape(-1).data, index * frame.nbytes
        while len(left):
            written = os.pwrite(self._descriptor, left, at)
            left, at = left[written:], at + written


def read(path: Path, count: int, height: int, width: int) -> Sequence[numpy.ndarray]:
    """Return the frames, each (height, width, 3); they are read from the disk when they are used."""
    return list(numpy.memmap(path, numpy.uint8, mode="r", shape=(count, height, width, 3)))
