"""Compile ahead: one block of each downloaded model for its default size, so that the first job finds it compiled.

A graph depends on a block's structure, type and inputs, not on its weights. So one block with arbitrary weights is
enough, and the model need not be loaded.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from shared.catalogue.models import Catalogue, CatalogueEntry
from shared.catalogue.tiers import TierSettings
from shared.models import memory_plan, replicas
from shared.models.memory_plan import Size
from shared.settings import Settings
from workers.devices.discovery import Device
from workers.generation.frames.geometry import TEMPORAL_STEP
from workers.generation.pipelines.memory.freeing import give_back, ran_out
from workers.generation.pipelines.tiers import attention, compiling
from workers.generation.pipelines.tiers.compiling import Compiled
from workers.generation.pipelines.weights.loading import compute_dtype

log = logging.getLogger(__name__)

_TEXT_TOKENS = 512


class Warming:
    """A thread that compiles, one graph in each turn at the device, until a job comes."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        device: Device,
        wanted: threading.Event,
        turn: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """`wanted` is set when a job comes. `turn` is held while the device is used."""
        self._settings = settings
        self._catalogue = catalogue
        self._device = torch.device(device.kind, 0) if device.kind == "cuda" else torch.device("cpu")
        self._wanted = wanted
        self._turn = turn

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.run, name="compile-ahead", daemon=True)
        thread.start()
        return thread

    def run(self) -> None:
        """Compile. Errors are logged: a job compiles again, and says what failed."""
        compiling.set_up()
        for entry in self._catalogue.entries:
            snapshot = replicas.snapshot_dir(self._settings.models_dir, entry)
            tiers = {entry.tiers.of(speed, self._device.type) for speed in ("balanced", "fast")}
            backends = sorted({tier.attention for tier in tiers if tier.compiled})
            if snapshot is None:
                continue
            for backend in backends:
                for temporal in _modulations(entry):
                    with self._turn():
                        if self._wanted.is_set():
                            return
                        self._one(entry, snapshot, TierSettings(attention=backend, compiled=True), temporal)

    def _one(self, entry: CatalogueEntry, snapshot: Path, tier: TierSettings, each_token: bool) -> None:
        try:
            failure = compile_block(entry, snapshot, tier, memory_plan.default_size(entry), self._device, each_token)
            if failure is not None:
                log.warning("%s is not compiled ahead: %s", entry.model_id, failure)
            else:
                log.info("compiled the blocks of %s for its default size", entry.model_id)
        except Exception as error:
            if ran_out(error):
                log.info("%s is not compiled ahead: not enough memory", entry.model_id)
            else:
                log.exception("%s is not compiled ahead", entry.model_id)
        finally:
            give_back()


def compile_block(
    entry: CatalogueEntry, snapshot: Path, tier: TierSettings, size: Size, device: torch.device, each_token: bool
) -> str | None:
    """Compile the graph of a block for that size. Return why it could not be compiled; None if it was.

    `each_token`: each token has its own modulation, as in models whose first frame may be an image.
    """
    config = WanTransformer3DModel.load_config(snapshot / "transformer", local_files_only=True)
    dtype = compute_dtype("none", device.type)
    model = _one_block(config, dtype, device)
    edge, depth = entry.memory.pixels_per_latent, (size.frames - 1) // TEMPORAL_STEP + 1
    latents = torch.zeros(
        1, config["in_channels"], depth, size.height // edge, size.width // edge, dtype=dtype, device=device
    )
    times = (1, memory_plan.tokens(entry.memory, size)) if each_token else (1,)
    text = torch.zeros(1, _TEXT_TOKENS, config["text_dim"], dtype=dtype, device=device)
    compiled = Compiled()
    model.blocks[0].forward = compiled.forward_of(model.blocks[0])
    with torch.no_grad(), ExitStack() as stack:
        if tier.attention != "native" and not attention.refusal(
            tier.attention, config["attention_head_dim"], dtype, device
        ):
            stack.enter_context(attention.used(model, tier.attention))
        model(latents, torch.zeros(times, device=device), text, return_dict=False)
    return compiled.failure


def _one_block(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Return a transformer of one block, in the types that it is loaded in. Its weights have no meaning."""
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config({**config, "num_layers": 1}).eval()
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        kept = any(part in name for part in WanTransformer3DModel._keep_in_fp32_modules)
        parameter.data = torch.zeros_like(parameter.data, dtype=torch.float32 if kept else dtype)
    for buffer in model.buffers():
        buffer.zero_()
    return model


def _modulations(entry: CatalogueEntry) -> Iterator[bool]:
    """Yield the forms of modulation that the model's jobs use."""
    yield entry.pipeline == "wan-ti2v"
    if entry.pipeline == "wan-ti2v":
        yield False
