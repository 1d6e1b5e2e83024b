"""Emulate on the CPU what a GPU does after a fault: from then on every kernel of the process fails.

The kernels are replaced in torch's dispatcher, below all code that calls them.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ILLEGAL_ACCESS = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`"
_KERNELS = ("mm", "addmm", "bmm", "add.Tensor", "mul.Tensor", "convolution", "native_layer_norm", "remainder.Scalar")


def poison(message: str = ILLEGAL_ACCESS) -> Any:
    """Let every such kernel raise the CUDA error. Return what must be kept as long as that shall last."""
    import torch

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError(message)

    return replaced(dict.fromkeys(_KERNELS, fail))


def replaced(kernels: dict[str, Callable[..., Any]]) -> Any:
    """Replace these kernels of the CPU by name. Return what must be kept as long as that shall last."""
    import torch

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        for name, kernel in kernels.items():
            library.impl(name, kernel, "CPU", allow_override=True)
    return library


@contextmanager
def poisoned(message: str = ILLEGAL_ACCESS) -> Iterator[None]:
    """Emulate it for the time of the block."""
    library = poison(message)
    try:
        yield
    finally:
        library._destroy()
