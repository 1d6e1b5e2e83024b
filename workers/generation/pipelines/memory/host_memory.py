"""Page-locked host memory, from which a device copies while it computes.

torch's own allocator of pinned memory rounds every size up to a power of two and keeps what is freed. A region here has
exactly the size that is needed, and is unlocked and returned to the system when nothing refers to it any more.
"""

import logging
import mmap
import weakref
from typing import Any

import torch

log = logging.getLogger(__name__)

_PORTABLE = 1  # cudaHostRegisterPortable: locked for every context of this process
_locked: dict[int, int] = {}  # bytes of each locked region by its address


class Region:
    """Host memory of `nbytes`, page-locked if `device` is a GPU and the system allows it."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.nbytes = nbytes
        self.pinned = False
        if nbytes == 0:
            self.bytes = torch.empty(0, dtype=torch.uint8)
            return
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.bytes = torch.frombuffer(memory, dtype=torch.uint8)
        if device.type == "cuda":
            self._lock(device)

    def _lock(self, device: torch.device) -> None:
        address = self.bytes.data_ptr()
        code = int(_runtime().cudaHostRegister(address, self.nbytes, _PORTABLE))
        if code != 0:
            log.warning(
                "%d MB of host memory cannot be page-locked (CUDA error %d): copies from it to the device are slower",
                self.nbytes // 10**6,
                code,
            )
            _forget_error(device)
            return
        self.pinned = True
        _locked[address] = self.nbytes
        # The tensor is an argument so that the memory exists until it is unlocked.
        release = weakref.finalize(self, _unlock, self.bytes, device)
        release.atexit = False  # CUDA may have ended before


def locked_bytes() -> int:
    """Return the bytes that this process holds page-locked."""
    return sum(_locked.values())


def _unlock(memory: torch.Tensor, device: torch.device) -> None:
    address = memory.data_ptr()
    try:
        torch.cuda.synchronize(device)  # a copy may still read it
        _runtime().cudaHostUnregister(address)
    except RuntimeError as error:
        log.warning("host memory stays page-locked until this process ends: %s", error)
    finally:
        _locked.pop(address, None)


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _forget_error(device: torch.device) -> None:
    """Clear the error of the failed call: CUDA would report it again at the next kernel."""
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:
        log.debug("cleared: %s", error)
