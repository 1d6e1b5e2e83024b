"""The catalogue: the models that this installation offers, as typed data.

Figures come from the models' configuration files (Wan-Video/Wan2.2, `wan/configs`), the sizes of the published weights,
and the hardware requirements that wanworks documents. Sizes in GB are 10^9 bytes.
"""

from pathlib import Path

from shared.catalogue import files, memory_data, presets
from shared.catalogue.entries import CatalogueEntry as CatalogueEntry
from shared.catalogue.entries import Defaults, Frozen, Hardware, with_presets
from shared.catalogue.entries import Offload as Offload
from shared.catalogue.entries import parse_resolution as parse_resolution
from shared.errors import NotFound


class Catalogue(Frozen):
    """The offered models."""

    name: str
    entries: tuple[CatalogueEntry, ...]

    def get(self, model_id: str) -> CatalogueEntry:
        """Return the entry of that id. Raises NotFound."""
        for entry in self.entries:
            if entry.model_id == model_id:
                return entry
        raise NotFound("model", model_id)

    def named(self, name: str) -> CatalogueEntry:
        """Return the entry by `model_id`, alias, or name on the hub. Raises NotFound.

        Aliases are accepted by `/v1/videos` only. Everything that is stored uses the `model_id`.
        """
        for entry in self.entries:
            if name == entry.model_id or name in entry.aliases:
                return entry
        # Several entries may share a repository: the first one counts.
        for entry in self.entries:
            if name in entry.names:
                return entry
        raise NotFound("model", name)

    @property
    def model_ids(self) -> tuple[str, ...]:
        return tuple(entry.model_id for entry in self.entries)


def load(source: str) -> Catalogue:
    """Return the catalogue. `source`: `default`, `demo`, or a TOML file.

    The file's ``[models.ID]`` tables add to or replace the default entries. A table may name another entry in
    ``extends`` and give only what differs. Raises ConfigurationError with the line.
    """
    if source == "default":
        return Catalogue(name="default", entries=with_presets(DEFAULT, presets.DEFAULT_PRESETS))
    if source == "demo":
        demo = [_demo(entry) for entry in DEFAULT]
        return Catalogue(name="demo", entries=with_presets(demo, presets.DEMO_PRESETS))
    path = Path(source).expanduser()
    return Catalogue(name=str(path), entries=files.read(path, DEFAULT))


def _both_ways(*landscape: str) -> tuple[str, ...]:
    portrait = ("x".join(reversed(size.split("x"))) for size in landscape)
    return (*landscape, *portrait)


# The four documented sizes; each model adds its native one.
_SIZES = ("854x480", "1024x576", "1280x720", "1920x1080")

# What the models' authors steer away from, in our words.
_NEGATIVE_PROMPT = (
    "oversaturated colours, overexposed, blown-out highlights, washed-out grey, static frame, frozen, motionless, "
    "blurred, out of focus, unclear details, subtitles, captions, watermark, logo, signature, painting-like still, "
    "compression artefacts, blocky, worst quality, low quality, ugly, incomplete, deformed hands, extra fingers, fused "
    "fingers, badly drawn hands, badly drawn face, distorted face, disfigured, malformed limbs, extra limbs, three "
    "legs, cluttered background, crowded background, many people in the background, walking backwards"
)
_A14B_HARDWARE = Hardware(min_vram_gb=10, recommended_vram_gb=16)
_5B_HARDWARE = Hardware(min_vram_gb=6, recommended_vram_gb=10)

DEFAULT = (
    CatalogueEntry(
        model_id="T2V-A14B",
        model_type="T2V-A14B",
        aliases=("wan2.2-t2v-a14b", "Wan-AI/Wan2.2-T2V-A14B", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
        repo="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        pipeline="wan-t2v",
        image="refused",
        resolutions=_both_ways("832x480", *_SIZES),
        max_frames=81,
        size_multiple=16,
        boundary_ratio=0.875,
        defaults=Defaults(
            resolution="1280x720",
            frames=81,
            fps=16,
            steps=40,
            guidance_scale=4.0,
            guidance_scale_2=3.0,
            flow_shift=12.0,
            negative_prompt=_NEGATIVE_PROMPT,
        ),
        hardware=_A14B_HARDWARE,
        memory=memory_data.T2V_A14B,
        download_gb=126,
        notes="Makes a video from text alone. The larger model: the best pictures, and the longest times.",
    ),
    CatalogueEntry(
        model_id="I2V-A14B",
        model_type="I2V-A14B",
        aliases=("wan2.2-i2v-a14b", "Wan-AI/Wan2.2-I2V-A14B", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
        repo="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        pipeline="wan-i2v",
        image="required",
        resolutions=_both_ways("832x480", *_SIZES),
        max_frames=81,
        size_multiple=16,
        boundary_ratio=0.9,
        defaults=Defaults(
            resolution="1280x720",
            frames=81,
            fps=16,
            steps=40,
            guidance_scale=3.5,
            guidance_scale_2=3.5,
            flow_shift=5.0,
            negative_prompt=_NEGATIVE_PROMPT,
        ),
        hardware=_A14B_HARDWARE,
        memory=memory_data.I2V_A14B,
        download_gb=126,
        notes="Brings your picture to life: the video begins with it, and the prompt says what happens.",
    ),
    CatalogueEntry(
        model_id="TI2V-5B",
        model_type="TI2V-5B",
        aliases=("wan2.2-ti2v-5b", "Wan-AI/Wan2.2-TI2V-5B", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
        repo="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        pipeline="wan-ti2v",
        image="optional",
        resolutions=_both_ways("1280x704", *_SIZES),
        max_frames=121,
        size_multiple=32,
        heads=24,
        defaults=Defaults(
            resolution="1280x704",
            frames=121,
            fps=24,
            steps=50,
            guidance_scale=5.0,
            flow_shift=5.0,
            negative_prompt=_NEGATIVE_PROMPT,
        ),
        hardware=_5B_HARDWARE,
        memory=memory_data.TI2V_5B,
        download_gb=34,
        notes="Makes a video from text, or from text and a picture. The smaller model: quicker, for smaller cards.",
    ),
)

_DEMO_SIZES = ("64x64", "96x64", "128x128", "256x256", "256x144", "416x240", *_SIZES)


def _demo(entry: CatalogueEntry) -> CatalogueEntry:
    """Return the entry with a tiny repository of random weights (`wanworks demo-models`): every picture is noise."""
    return entry.model_copy(
        update={
            "repo": f"wanworks-demo/{entry.model_id}",
            "resolutions": tuple(dict.fromkeys((*_both_ways(*_DEMO_SIZES), *entry.resolutions))),
            "defaults": entry.defaults.model_copy(update={"resolution": "256x256", "frames": 17, "fps": 8, "steps": 4}),
            "hardware": entry.hardware.model_copy(update={"min_vram_gb": 1.0, "recommended_vram_gb": 1.0}),
            "memory": memory_data.TINY[entry.model_id],
            "heads": 4,
            "download_gb": 0.004,
            "notes": "Random weights: every picture is noise.",
        }
    )
