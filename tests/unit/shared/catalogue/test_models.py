"""The catalogue: what the three models can do, and what a catalogue file may say."""

from pathlib import Path

import pytest

from shared.catalogue import models as catalogue
from shared.catalogue.tiers import TierSettings
from shared.errors import ConfigurationError, NotFound


def test_the_three_models_offer_what_was_promised() -> None:
    models = catalogue.load("default")
    assert models.model_ids == ("T2V-A14B", "I2V-A14B", "TI2V-5B", "T2V-A14B-Lightning", "I2V-A14B-Lightning")
    for entry in models.entries:
        for size in ("854x480", "1024x576", "1280x720", "1920x1080", "480x854", "576x1024", "720x1280", "1080x1920"):
            assert size in entry.resolutions
        assert entry.min_frames == 8
        assert set(entry.fps) == {8, 12, 16, 24}
        assert {"fp16", "bf16", "int8"} <= set(entry.quantizations)
        assert set(entry.output_formats) == {"mp4", "webm"}
        assert entry.hardware.cuda_compute_capability == "7.0"
    memory = {
        entry.model_id: (entry.hardware.min_vram_gb, entry.hardware.recommended_vram_gb)
        for entry in models.entries
        if entry.extends is None
    }
    assert memory == {"T2V-A14B": (10, 16), "I2V-A14B": (10, 16), "TI2V-5B": (6, 10)}


def test_native_values() -> None:
    t2v, i2v, ti2v = catalogue.load("default").entries[:3]
    assert (t2v.boundary_ratio, i2v.boundary_ratio, ti2v.boundary_ratio) == (0.875, 0.9, None)
    assert (t2v.max_frames, i2v.max_frames, ti2v.max_frames) == (81, 81, 121)
    assert (t2v.defaults.flow_shift, i2v.defaults.flow_shift, ti2v.defaults.flow_shift) == (12.0, 5.0, 5.0)
    assert (t2v.defaults.guidance_scale, t2v.defaults.guidance_scale_2) == (4.0, 3.0)
    assert (t2v.size_multiple, ti2v.size_multiple) == (16, 32)


def test_the_demo_keeps_the_ids_and_adds_small_sizes() -> None:
    demo = catalogue.load("demo")
    assert demo.model_ids == catalogue.load("default").model_ids
    assert all({"64x64", "1280x720"} <= set(entry.resolutions) for entry in demo.entries)
    assert all(entry.repo.startswith("wanworks-demo/") for entry in demo.entries)


def test_an_unknown_model() -> None:
    with pytest.raises(NotFound, match="Model not found: nope"):
        catalogue.load("default").get("nope")


def test_a_file_adds_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        """
        [models."My-5B"]
        extends = "TI2V-5B"
        repo = "me/my-5b"
        [models."My-5B".defaults]
        steps = 30

        [models."T2V-A14B"]
        extends = "T2V-A14B"
        revision = "abc"
        """
    )
    loaded = catalogue.load(str(file))
    assert set(loaded.model_ids) == {*catalogue.load("default").model_ids, "My-5B"}
    mine = loaded.get("My-5B")
    assert (mine.repo, mine.defaults.steps, mine.defaults.fps) == ("me/my-5b", 30, 24)
    assert loaded.get("T2V-A14B").revision == "abc"


def test_a_model_has_other_names(tmp_path: Path) -> None:
    models = catalogue.load("default")
    assert models.named("wan2.2-t2v-a14b") is models.get("T2V-A14B")
    assert models.named("Wan-AI/Wan2.2-TI2V-5B-Diffusers") is models.get("TI2V-5B")
    assert models.named("I2V-A14B") is models.get("I2V-A14B")
    for unknown in ("nope", "WAN2.2-T2V-A14B"):
        with pytest.raises(NotFound):
            models.named(unknown)
    with pytest.raises(NotFound):
        models.get("wan2.2-t2v-a14b")
    for name in ("default", "demo"):
        names = [one for entry in catalogue.load(name).entries for one in (entry.model_id, *entry.aliases)]
        assert len(names) == len(set(names)) == 14


def test_a_file_gives_other_names(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        """
        [models."T2V-A14B"]
        extends = "T2V-A14B"
        aliases = ["sora-2", "house/video"]

        [models."TI2V-5B"]
        extends = "TI2V-5B"
        revision = "abc"

        [models."My-5B"]
        extends = "TI2V-5B"
        """
    )
    loaded = catalogue.load(str(file))
    assert loaded.named("sora-2").model_id == loaded.named("house/video").model_id == "T2V-A14B"
    with pytest.raises(NotFound):
        loaded.named("wan2.2-t2v-a14b")
    assert loaded.named("wan2.2-ti2v-5b").model_id == "TI2V-5B"
    assert loaded.get("My-5B").aliases == (), "a name is one model's"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models.X]\nextends = 'TI2V-5B'\n\nmax_frames = 'many'", "line 4: [models.X] max_frames"),
        ("[models.X]\nextends = 'TI2V-5B'\n[models.X.defaults]\nfps = 23", "defaults.fps is not among"),
        ("\n[models.X]\nextends = 'nothing'", "line 3: [models.X] extends 'nothing'"),
        ("[models.X]\nrepo = 'a/b'\nsurprise = 1", "line"),
        ("[model.X]\n", "line 1: expected only [models.ID] tables"),
        ("[models.X\n", "line 1"),
        ("models = 3", "line 1"),
        ("[models.X]\nextends = 'TI2V-5B'\naliases = ['a', 'b', 'a']", "line 3: [models.X] aliases: 'a' is already"),
        (
            "[models.X]\nextends = 'TI2V-5B'\naliases = ['T2V-A14B']",
            "line 3: [models.X] aliases: 'T2V-A14B' is already",
        ),
        ("[models.X]\nextends = 'TI2V-5B'\naliases = ['wan2.2-t2v-a14b']", "aliases: 'wan2.2-t2v-a14b' is already"),
        ("[models.X]\nextends = 'TI2V-5B'\naliases = ['no good']", "line 3: [models.X] aliases.0"),
        ("[models]\nX = 3", "must be a table"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_reason(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        catalogue.load(str(file))
    assert said in str(refused.value)
    assert "line" in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        catalogue.load(str(tmp_path / "none.toml"))


def test_a_file_changes_one_tier_on_one_kind_of_device(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[models.T2V-A14B]\nextends = "T2V-A14B"\n[models.T2V-A14B.tiers.fast.cuda]\nstep_cache = 0.08\n')
    before, after = catalogue.load("default").get("T2V-A14B").tiers, catalogue.load(str(path)).get("T2V-A14B").tiers
    assert after.of("fast", "cuda") == before.of("fast", "cuda").model_copy(update={"step_cache": 0.08})
    assert after.of("fast", "cpu") == before.of("fast", "cpu")
    assert after.balanced == before.balanced
    assert after.of("exact", "cuda") == TierSettings()
    path.write_text('[models.T2V-A14B]\nextends = "T2V-A14B"\n[models.T2V-A14B.tiers.exact.cuda]\ncompiled = true\n')
    with pytest.raises(ConfigurationError, match=r"tiers\.exact"):
        catalogue.load(str(path))
