"""Read the files of a device's next model into the page cache while the device still computes with another one.

Loading is then limited by the copy to the device instead of by the disk. It must not depend on torch.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from shared.catalogue.models import CatalogueEntry
from shared.models import prepared
from shared.models.prepared import Form
from wanworks.requests import Quantization
from workers.devices import discovery

log = logging.getLogger("wanworks.generation")


def read_ahead(snapshot: Path, entry: CatalogueEntry, quantization: Quantization, device_kind: str) -> int:
    """Ask the kernel to read the files from which the model would be loaded. Return how many bytes they have.

    Return 0, and ask for nothing, if they are more than the host's free memory: they would displace each other.
    """
    files = files_of(snapshot, entry, quantization, device_kind)
    size = sum(file.stat().st_size for file in files)
    if size > discovery.free_host_memory_mb() * discovery.MB:
        return 0
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
    log.info("%s: reading %.1f GB ahead", entry.model_id, size / 1e9)
    return size


def files_of(snapshot: Path, entry: CatalogueEntry, quantization: Quantization, device_kind: str) -> list[Path]:
    """Return the files of weights from which the model would be loaded: its prepared copies, where they serve."""
    form = _form(quantization, device_kind)
    names = ("text_encoder", "transformer", *(() if entry.boundary_ratio is None else ("transformer_2",)))
    found: list[Path] = []
    for name in names:
        copy = prepared.find(snapshot, name, prepared.form_of(name, form)) if form is not None else None
        copy = copy or prepared.standing_in(snapshot, name)
        paths: Iterable[str] = prepared.weights(snapshot, name) if copy is None else (file.path for file in copy.files)
        found += [snapshot / path for path in paths]
    return [*found, *sorted((snapshot / "vae").glob("*.safetensors"))]


def _form(quantization: Quantization, device_kind: str) -> Form | None:
    """Return the form of the copies that serve it; None if the published weights are read."""
    if quantization in prepared.QUANTIZED_FORMS:
        return quantization
    return "bf16" if quantization == "bf16" or (quantization == "none" and device_kind != "cpu") else None
