"""Decide from an error, and by a probe, whether the device still works in this process.

A CUDA error other than out of memory is sticky: every later call in the process fails. What fails otherwise is decided
by the probe, a small computation whose result is known.
"""

import threading
from collections.abc import Iterator

import torch

from workers.generation.pipelines.memory.freeing import ran_out

PROBE_SECONDS = 60.0
_SIDE = 64
# What CUDA and its libraries report when a kernel or the device failed. Their other statuses, such as those of a handle
# that could not be created, may have harmless causes, so the probe decides.
_STICKY = (
    "CUDA error:",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUFFT_EXEC_FAILED",
    "device-side assert",
    "illegal memory access",
    "unspecified launch failure",
    "uncorrectable ECC error",
)


def cuda_error(error: BaseException) -> str | None:
    """Return the first line of the CUDA error that the exception is or that led to it; None if there is none."""
    for one in _chain(error):
        if isinstance(one, RuntimeError) and not ran_out(one):
            text = str(one)
            if isinstance(one, torch.AcceleratorError) or any(sign in text for sign in _STICKY):
                return text.splitlines()[0] if text else type(one).__name__
    return None


def lacks_memory(error: BaseException) -> bool:
    """Return whether memory that ran out is, or led to, the exception."""
    return any(ran_out(one) for one in _chain(error))


def probe(kind: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Compute something with a known result on this process's device, a ``cuda`` or ``cpu`` one.

    Return what is wrong; None if the device works, or lacks the memory for the probe.

    The computation runs in a thread of its own, because a device that hangs never answers.
    """
    device = torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(_computed(device)), name="probe", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else f"the probe did not finish within {seconds:g} s"


def _computed(device: torch.device) -> str | None:
    try:
        left = torch.arange(_SIDE * _SIDE, dtype=torch.float32, device=device).reshape(_SIDE, _SIDE) % 7
        product = left @ torch.eye(_SIDE, device=device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return None if bool(torch.equal(product.cpu(), left.cpu())) else "the probe computed wrong results"
    except Exception as error:
        if ran_out(error):
            return None
        text = str(error)
        return f"the probe failed: {text.splitlines()[0] if text else type(error).__name__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception, and what it was raised from or during."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
