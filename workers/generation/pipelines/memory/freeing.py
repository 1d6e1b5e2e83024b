"""Detect out-of-memory errors, and free memory."""

import ctypes
import errno
import gc

import torch

# cuDNN reports "unable to find an engine" if no algorithm's workspace fits the free memory.
_SIGNS = (
    "out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED", "unable to find an engine",
)  # fmt: skip


def ran_out(error: BaseException) -> bool:
    """Return whether an exception means that the device's or the host's memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # a file that could not be mapped
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def give_back() -> None:
    """Free dropped models: modules contain reference cycles, and the allocators keep freed memory.

    The collection also unlocks the host memory of their masters.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        empty_host_cache = getattr(torch.accelerator, "empty_host_cache", None)  # not in every version
        if empty_host_cache is not None:
            empty_host_cache()  # page-locked memory that torch itself has allocated
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # exists in glibc only
    if trim is not None:
        trim(0)
