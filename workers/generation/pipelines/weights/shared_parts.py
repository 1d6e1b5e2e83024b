"""Text encoders and VAEs that several loaded models share: one object in memory where their files are equal.

Only components that stay on the device are shared. A component that is moved or streamed carries hooks that belong to
one model's placement.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from shared.models import prepared

_SHARED = ("text_encoder", "vae")
_WEIGHTS = {"text_encoder": "model", "vae": "diffusion_pytorch_model"}
_loaded: WeakValueDictionary[str, torch.nn.Module] = WeakValueDictionary()


def shared(snapshot: Path, component: str, dtype: torch.dtype, device: torch.device, read: Callable[[], Any]) -> Any:
    """Return the component that a loaded model has read from equal files; else what `read` returns.

    Components are kept only as long as a loaded model uses them.
    """
    key = _key(snapshot, component, dtype, device) if component in _SHARED else None
    found = _loaded.get(key) if key is not None else None
    if found is not None and _is_plain(found, device):
        return found
    made = read()
    if key is not None:
        made.to(device)
        _loaded[key] = made
    return made


def _is_plain(module: torch.nn.Module, device: torch.device) -> bool:
    """Return whether no placement moves the component: it has no hooks of one and is whole on the device."""
    if any(hasattr(part, name) for part in module.modules() for name in ("_hf_hook", "_diffusers_hook")):
        return False
    return all(parameter.device.type == device.type for parameter in module.parameters())


def _key(snapshot: Path, component: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return what identifies the component in memory; None if its files carry no checksums."""
    files = prepared.checksums(snapshot, component, _WEIGHTS[component])
    if files is None:
        copy = prepared.standing_in(snapshot, component)
        if copy is None:
            return None
        files = {"copy": copy.key}
    return json.dumps([component, files, str(dtype), str(device)], sort_keys=True)
