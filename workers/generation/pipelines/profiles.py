"""Choose the memory profile that a model runs under, and the next leaner one after running out of memory.

Pure; does not import torch. A CPU has no other memory to offload to, so the profiles that move whole components are the
same there as holding everything, and are skipped.
"""

from collections.abc import Sequence
from typing import Literal

from shared.catalogue.models import MemoryProfile
from shared.errors import ConfigurationError, OutOfMemory


def choose(
    profiles: Sequence[MemoryProfile], kind: Literal["cpu", "cuda"], available_mb: float, setting: str = "auto"
) -> MemoryProfile:
    """Return the profile to run under.

    `profiles` are those of one quantization, richest first; `available_mb` is what the device would have free with
    no model of ours on it (10^6 bytes); `setting` is ``auto`` or a profile's name, with or without its ``int8-``.
    Raises ConfigurationError for an unknown name, OutOfMemory if not even the leanest fits.
    """
    if not profiles:
        raise ConfigurationError("the catalogue lists no memory profile for this quantization")
    if setting != "auto":
        for profile in profiles:
            if _plain(profile.name) == _plain(setting):
                return profile
        raise ConfigurationError(
            f"memory_profile: {setting!r} is not auto or one of {', '.join(profile.name for profile in profiles)}"
        )
    if kind == "cpu":
        return profiles[0]
    for profile in profiles:
        if profile.min_vram_gb * 1000 <= available_mb:
            return profile
    raise OutOfMemory(
        f"the leanest profile, {profiles[-1].name}, needs {profiles[-1].min_vram_gb:g} GB of device memory; "
        f"{available_mb / 1000:.1f} GB are available"
    )


def leaner(
    profiles: Sequence[MemoryProfile], kind: Literal["cpu", "cuda"], current: MemoryProfile
) -> MemoryProfile | None:
    """Return the next profile that needs less than `current`, or None after the leanest."""
    after = profiles[list(profiles).index(current) + 1 :]
    return next((profile for profile in after if kind == "cuda" or profile.offload == "group"), None)


def _plain(name: str) -> str:
    return name.removeprefix("int8-")
