"""What each speed tier of a model uses on each kind of device. Data only.

`exact` is not listed: it is the eager computation without any of this. Constants that need a calibration are not used:
a first-block cache needs none, its threshold is a relative change that can be read from the model's own output.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from wanworks.requests import Speed

# Names of diffusers. `native` is the default of torch; the others need a GPU, and all but cuDNN's a package.
Attention = Literal["native", "_native_cudnn", "_native_flash", "flash", "_flash_3", "sage"]


class TierSettings(BaseModel):
    """The settings of one tier on one kind of device. The defaults are those of `exact`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention: Attention = "native"
    compiled: bool = False  # the transformer's blocks, by torch.compile
    step_cache: float | None = Field(None, gt=0, lt=1)  # threshold of a first-block cache; None: no step is skipped
    decode: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False  # the decoder's memory format


class ByDevice(BaseModel):
    """The settings of one tier, by kind of device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cuda: TierSettings = TierSettings()
    cpu: TierSettings = TierSettings()


# The cache's threshold is the library's own default (diffusers, `FirstBlockCacheConfig`). A CPU decodes in 32 bits:
# there 16 bits are six times as slow.
_GPU = TierSettings(attention="_native_cudnn", compiled=True, decode="bfloat16", channels_last=True)
_CPU = TierSettings(compiled=True)
_STEP_CACHE = 0.05


class Tiers(BaseModel):
    """The tiers of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    balanced: ByDevice = ByDevice(cuda=_GPU, cpu=_CPU)
    fast: ByDevice = ByDevice(
        cuda=_GPU.model_copy(update={"step_cache": _STEP_CACHE}),
        cpu=_CPU.model_copy(update={"step_cache": _STEP_CACHE}),
    )

    def of(self, speed: Speed, kind: str) -> TierSettings:
        """Return the settings of a tier on a ``cuda`` or ``cpu`` device."""
        if speed == "exact":
            return TierSettings()
        by_device = self.balanced if speed == "balanced" else self.fast
        return by_device.cpu if kind == "cpu" else by_device.cuda
