"""Replace the error of a generation by DeviceFailed if the device no longer works in this process.

Importing this module loads no torch.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import (
    AttemptStopped,
    ConfigurationError,
    DeviceFailed,
    FaultKind,
    JobFailed,
    StoreFull,
    Unavailable,
)
from workers.devices.discovery import Device

log = logging.getLogger(__name__)

# Errors with a known cause, after which no probe is needed. A CUDA error may still be behind one of them.
_FORESEEN = (AttemptStopped, JobFailed, ConfigurationError, StoreFull, Unavailable, MemoryError)


@contextmanager
def reported(this_device: Callable[[], Device]) -> Iterator[None]:
    """Raise DeviceFailed in place of an error of the block that shows that the device failed.

    A CUDA error other than out of memory shows it at once. After any other unforeseen error, a probe decides.
    """
    try:
        yield
    except Exception as error:
        if (failed := _failed(this_device, error)) is not None:
            raise failed from error
        raise


def _failed(this_device: Callable[[], Device], error: Exception) -> DeviceFailed | None:
    try:
        from workers.generation.pipelines import device_health
    except Exception:  # the libraries do not load, so nothing has run on the device
        return None
    if (text := device_health.cuda_error(error)) is not None:
        return DeviceFailed(FaultKind.CUDA_ERROR, text)
    if isinstance(error, _FORESEEN) or device_health.lacks_memory(error):
        return None
    log.warning("an unforeseen error; the device is probed", exc_info=error)
    wrong = device_health.probe(this_device().kind)
    return None if wrong is None else DeviceFailed(FaultKind.FAILED_PROBE, wrong)
