"""An emulation of a CUDA device on the CPU: what runs on it is the real code, down to the calls of torch.

Tensors on the device are CPU tensors whose storage is marked. Everything computed from them is marked too. Work of the
computing stream is done at once; copies on another stream are done as late as CUDA may do them, when something waits
for them. These mistakes, which CUDA punishes with wrong numbers, raise `Misuse`:

- a computation that mixes tensors of the host and of the device, or runs on one without the other's copy;
- reading or freeing device memory into which a copy may still be running;
- writing to device memory that the computing stream may still read;
- copying beside the computation from memory that is not page-locked; locking memory twice; unlocking it during a copy.

Memory is counted, and `capacity` makes allocations beyond it fail.
"""

import contextlib
import ctypes
import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("cuda", 0)
_MAY_TAKE_HOST_INDICES = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")
_VIEWS_OF_NOTHING = ("aten::detach", "aten::alias")


class Misuse(AssertionError):
    """A mistake that CUDA would not report."""


class FakeStream:
    """A stream. `cuda.compute` is the default one; the others queue their work."""

    def __init__(self, cuda: "FakeCuda") -> None:
        self._cuda = cuda
        self.queue: list[Callable[[], None]] = []
        self.done = 0  # entries of the queue that have run
        self.follows = 0  # the number of the computing stream's operation after which its next work begins

    def wait_event(self, event: "FakeEvent") -> None:
        if self is self._cuda.compute:
            event.stream.run_to(event.position)
        else:
            assert event.stream is self._cuda.compute, "not needed so far"
            self.follows = max(self.follows, event.position)

    def wait_stream(self, other: "FakeStream") -> None:
        event = FakeEvent(self._cuda)
        event.record(other)
        self.wait_event(event)

    def synchronize(self) -> None:
        self.run_to(len(self.queue))

    def run_to(self, position: int) -> None:
        while self.done < position:
            self.queue[self.done]()
            self.done += 1


class FakeEvent:
    def __init__(self, cuda: "FakeCuda") -> None:
        self._cuda = cuda
        self.stream, self.position = cuda.compute, 0

    def record(self, stream: FakeStream | None = None) -> None:
        self.stream = stream or self._cuda.current
        self.position = self._cuda.operations if self.stream is self._cuda.compute else len(self.stream.queue)

    def synchronize(self) -> None:
        if self.stream is self._cuda.compute:
            self._cuda.host_waited_for = max(self._cuda.host_waited_for, self.position)
        else:
            self.stream.run_to(self.position)


class FakeCuda:
    """The device's state: which memory is on it, page-locked, or being copied to."""

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.compute = self.current = FakeStream(self)
        self.streams: list[FakeStream] = [self.compute]
        self.operations = 0  # of the computing stream
        self.host_waited_for = 0  # the latest of them that the host has waited for
        self.live = self.peak = 0  # bytes on the device
        self.buffers = self.peak_buffers = 0  # of those, bytes of raw memory: buffers of weights
        self.locked: dict[int, int] = {}  # bytes by address
        self.copies_beside = 0  # copies on another stream than the computing one
        self.refuse_to_lock = False
        self.faults: list[str] = []  # found where nothing can be raised
        self._sizes: dict[int, int] = {}  # of the storages on the device
        self._raw: set[int] = set()
        self._pending: dict[int, int] = {}  # copies under way into a storage
        self._last_use: dict[int, int] = {}
        self._reads: dict[int, int] = {}  # copies under way from an address

    # --- which tensors are on the device -------------------------------------------------------------------------

    def holds(self, tensor: torch.Tensor) -> bool:
        return any(_key(part) in self._sizes for part in _plain(tensor))

    def mark(self, tensor: torch.Tensor, raw: bool = False) -> None:
        """Note that a tensor's memory is on the device. Raises OutOfMemoryError beyond the capacity."""
        for part in _plain(tensor):
            key, nbytes = _key(part), part.untyped_storage().nbytes()
            if key in self._sizes:
                continue
            if self.capacity is not None and self.live + nbytes > self.capacity:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {nbytes} bytes")
            self._sizes[key] = nbytes
            self.live += nbytes
            self.peak = max(self.peak, self.live)
            if raw:
                self._raw.add(key)
                self.buffers += nbytes
                self.peak_buffers = max(self.peak_buffers, self.buffers)
            weakref.finalize(part.untyped_storage(), self._freed, key)

    def _freed(self, key: int) -> None:
        nbytes = self._sizes.pop(key, 0)
        self.live -= nbytes
        if key in self._raw:
            self._raw.discard(key)
            self.buffers -= nbytes
        self._last_use.pop(key, None)
        if self._pending.pop(key, None) is not None:
            self.faults.append("device memory is freed while a copy into it may be running")

    def used(self, tensor: torch.Tensor) -> None:
        """Note that the computing stream works with a tensor."""
        for part in _plain(tensor):
            key = _key(part)
            if key in self._pending:
                raise Misuse("device memory is used before the copy into it is waited for")
            self._last_use[key] = self.operations

    # --- copies --------------------------------------------------------------------------------------------------

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy on the current stream, which is not the computing one."""
        stream, key, address = self.current, _key(target), source.data_ptr()
        self.copies_beside += 1
        if not self.is_locked(source):
            raise Misuse("a copy from memory that is not page-locked does not run beside the computation")
        if self._last_use.get(key, 0) > stream.follows:
            raise Misuse("a copy overwrites device memory that the computing stream may still read")
        self._pending[key] = self._pending.get(key, 0) + 1
        self._reads[address] = self._reads.get(address, 0) + 1
        target.view(torch.uint8).fill_(0xFF)  # not a number, in every type of float
        to, nbytes = target.data_ptr(), target.nbytes

        def run() -> None:  # like the device, it holds no reference to either
            self._reads[address] -= 1
            if key in self._pending:
                ctypes.memmove(to, address, nbytes)
                self._pending[key] -= 1
                if not self._pending[key]:
                    del self._pending[key]

        stream.queue.append(run)

    def is_locked(self, tensor: torch.Tensor) -> bool:
        start = tensor.data_ptr()
        return any(at <= start and start + tensor.nbytes <= at + nbytes for at, nbytes in self.locked.items())

    def synchronize(self, _device: object = None) -> None:
        for stream in self.streams:
            stream.synchronize()

    # --- what replaces torch.cuda --------------------------------------------------------------------------------

    def stream(self, _device: object = None) -> FakeStream:
        made = FakeStream(self)
        self.streams.append(made)
        return made

    @contextlib.contextmanager
    def using(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        assert flags == 1
        if self.refuse_to_lock:
            return 2
        if any(at < address + nbytes and address < at + size for at, size in self.locked.items()):
            raise Misuse("memory is page-locked twice")
        self.locked[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        if self._reads.get(address):
            self.faults.append("memory is unlocked while a copy reads it")
        del self.locked[address]
        return 0


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain(getattr(tensor, name))
    else:
        yield tensor


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_cuda(value: object) -> bool:
    if isinstance(value, str):
        return value.startswith("cuda")
    return isinstance(value, torch.device) and value.type == "cuda"


def _asked_by(package: str) -> bool:
    return str(sys._getframe(2).f_globals.get("__name__")).startswith(package)


class _Calls(TorchFunctionMode):
    """Replaces the device in calls of torch, and answers what device a tensor is on."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__ and self._cuda.holds(args[0]):
            # A quantized weight asks for the device of its parts when it is made: its own memory is real.
            return torch.device("cpu") if _asked_by("torchao") else DEVICE
        if func == torch.Tensor.is_cuda.__get__:
            return self._cuda.holds(args[0])
        if func in (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu):
            return self._moved(func, args, kwargs)
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and self._cuda.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if _is_cuda(kwargs.get("device")):
            raw = func is torch.empty and kwargs.get("dtype") is torch.uint8
            made = func(*args, **{**kwargs, "device": torch.device("cpu")})
            for tensor in tree_flatten(made)[0]:
                if isinstance(tensor, torch.Tensor):
                    self._cuda.mark(tensor, raw)
            return made
        return func(*args, **kwargs)

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, *others = args
        here = self._cuda.holds(tensor)
        wanted: bool | None = {torch.Tensor.cuda: True, torch.Tensor.cpu: False}.get(func)
        rest: list[Any] = []
        for value in [*others, kwargs.pop("device", None), kwargs.pop("other", None)]:
            if isinstance(value, torch.Tensor):
                wanted = self._cuda.holds(value)
                rest.append(value.dtype)
            elif isinstance(value, torch.device | str):
                wanted = _is_cuda(value)
            elif isinstance(value, torch.dtype):
                rest.append(value)
        if wanted is None or wanted == here:
            return torch.Tensor.to(tensor, *rest, **kwargs) if rest or kwargs else tensor
        kwargs.pop("copy", None)
        kwargs.pop("non_blocking", None)
        if here:
            self._cuda.used(tensor)
            _Ops.paused += 1
        try:
            moved = torch.Tensor.to(tensor, *rest, copy=True, **kwargs)
        finally:
            if here:
                _Ops.paused -= 1
        if wanted:
            self._cuda.mark(moved)
        return moved


class _Ops(TorchDispatchMode):
    """Checks and marks the tensors of each operation."""

    paused = 0

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if self.paused:
            return func(*args, **kwargs)
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        here = [tensor for tensor in tensors if self._cuda.holds(tensor)]
        if not here:
            return func(*args, **kwargs)
        if name == "aten::copy_":
            return self._copied(func, args, kwargs)
        away = [tensor for tensor in tensors if not self._cuda.holds(tensor) and tensor.ndim > 0]
        if away and name not in _MAY_TAKE_HOST_INDICES:
            raise Misuse(f"{name} mixes tensors of the device and of the host, of the shapes {[t.shape for t in away]}")
        if func.is_view or name in _VIEWS_OF_NOTHING:
            return func(*args, **kwargs)  # no memory is read
        self._cuda.operations += 1
        for tensor in here:
            self._cuda.used(tensor)
        made = func(*args, **kwargs)
        tree_map_only(torch.Tensor, self._cuda.mark, made)
        return made

    def _copied(self, func: Any, args: Any, kwargs: Any) -> Any:
        target, source = args[:2]
        if self._cuda.current is not self._cuda.compute and self._cuda.holds(target):
            assert not self._cuda.holds(source), "not needed so far"
            self._cuda.copy(target, source)
            return target
        self._cuda.operations += 1
        for tensor in (target, source):
            if self._cuda.holds(tensor):
                self._cuda.used(tensor)
        return func(*args, **kwargs)


@contextlib.contextmanager
def fake_cuda(capacity: int | None = None) -> Iterator[FakeCuda]:
    """Emulate one CUDA device inside the block."""
    cuda = FakeCuda(capacity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Stream", cuda.stream)
        patch.setattr(torch.cuda, "Event", lambda **_: FakeEvent(cuda))
        patch.setattr(torch.cuda, "stream", cuda.using)
        patch.setattr(torch.cuda, "current_stream", lambda _device=None: cuda.current)
        patch.setattr(torch.cuda, "synchronize", cuda.synchronize)
        patch.setattr(torch.cuda, "cudart", lambda: cuda)
        with _Calls(cuda), _Ops(cuda):
            yield cuda
        gc.collect()  # what the block has left is freed on this device
        if cuda.faults:
            raise Misuse("; ".join(cuda.faults))
