"""LoRAs on the real pipelines: they change the picture, reach their expert and leave no trace."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from shared.errors import BadInput
from tests.integration.workers.generation.lora_files import write_differences, write_lora
from tests.support.models.generating import Studio
from workers.generation import run


def weights_digest(model_id: str) -> str:
    models = run._warm_models
    assert models is not None
    digest = hashlib.sha256()
    for model in models._models.values():
        if model.key.model_id == model_id:
            for transformer in model.transformers:
                for name, tensor in sorted(transformer.state_dict().items()):
                    digest.update(name.encode())
                    digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_a_lora_changes_the_picture_and_leaves_no_trace(studio: Studio) -> None:
    plain = studio.generate("T2V-A14B")
    before = weights_digest("T2V-A14B")
    write_lora(studio.settings.loras_dir / "style.v1.safetensors")
    write_lora(studio.settings.loras_dir / "fast.high.safetensors", scale=0.3)
    write_lora(studio.settings.loras_dir / "fast.low.safetensors", scale=0.7)
    on_both = studio.generate("T2V-A14B", loras=[{"name": "style.v1"}])
    weaker = studio.generate("T2V-A14B", loras=[{"name": "style.v1", "scale": 0.25}])
    two = studio.generate("T2V-A14B", loras=[{"name": "style.v1"}, {"name": "fast", "scale": 0.8}])
    assert len({made.sha256 for made in (plain, on_both, weaker, two)}) == 4
    assert weights_digest("T2V-A14B") == before
    assert studio.generate("T2V-A14B").sha256 == plain.sha256
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in studio.settings.loras_dir.iterdir()}
    assert two.outcome.manifest["loras"] == [
        {"name": "style.v1", "scale": 1.0, "files": {"style.v1.safetensors": digests["style.v1.safetensors"]}},
        {
            "name": "fast",
            "scale": 0.8,
            "files": {name: digests[name] for name in ("fast.high.safetensors", "fast.low.safetensors")},
        },
    ]


def test_each_half_of_a_pair_reaches_its_own_expert(studio: Studio) -> None:
    """One file of the pair is there: were it laid on the wrong expert or on none, two of the three would be alike."""
    plain = studio.generate("T2V-A14B", steps=4)
    write_lora(studio.settings.loras_dir / "low.low.safetensors")
    write_lora(studio.settings.loras_dir / "high.high.safetensors")
    low = studio.generate("T2V-A14B", steps=4, loras=[{"name": "low"}])
    high = studio.generate("T2V-A14B", steps=4, loras=[{"name": "high"}])
    assert len({plain.sha256, low.sha256, high.sha256}) == 3


def test_a_lora_that_does_not_fit_fails_the_job_and_nothing_else(studio: Studio) -> None:
    plain = studio.generate("TI2V-5B")
    folder = studio.settings.loras_dir
    write_lora(folder / "wide.safetensors", width=128)
    (folder / "junk.safetensors").write_bytes(b"not safetensors at all")
    save_file({"foreign.weight": torch.ones(2)}, folder / "foreign.safetensors")
    write_lora(folder / "pair.high.safetensors")
    for name in ("wide", "junk", "foreign", "pair", "absent"):
        with pytest.raises(BadInput, match=name):
            studio.generate("TI2V-5B", loras=[{"name": name}])
    again = studio.generate("TI2V-5B")
    assert again.outcome.warm
    assert again.sha256 == plain.sha256


def test_the_result_says_what_of_a_lora_applied(studio: Studio) -> None:
    """A file as DiffSynth saves it, with differences and with keys that the model has no place for."""
    random = torch.Generator().manual_seed(5)
    file = {f"blocks.0.self_attn.q.lora_{half}.default.weight": torch.ones(1) for half in "AB"}
    file = {key: torch.randn(*((4, 96) if "_A" in key else (96, 4)), generator=random) for key in file}
    file |= {"blocks.0.diff_m": torch.randn(1, 6, 96, generator=random), "blocks.1.ffn.0.diff_b": torch.ones(256)}
    save_file({**file, "blocks.9.ffn.0.diff_b": torch.ones(256)}, studio.settings.loras_dir / "synth.safetensors")
    plain = studio.generate("T2V-A14B")
    before = weights_digest("T2V-A14B")
    outcome = studio.generate("T2V-A14B", loras=[{"name": "synth"}]).outcome
    assert outcome.artifacts[0].sha256 != plain.sha256
    told = [(each["expert"], each["keys_applied"], each["keys"], each["format"]) for each in outcome.loras]
    assert told == [("high_noise", 4, 5, "DiffSynth"), ("low_noise", 4, 5, "DiffSynth")]
    assert outcome.loras[0]["not_applied"] == [
        {"key": "blocks.9.ffn.0.diff_b", "reason": "the model has no such module"}
    ]
    assert "1 of 5 keys of synth.safetensors did not apply (high_noise expert)" in outcome.notes[0]
    assert weights_digest("T2V-A14B") == before
    assert studio.generate("T2V-A14B").sha256 == plain.sha256


def test_differences_on_an_int8_model(studio: Studio) -> None:
    write_differences(studio.settings.loras_dir / "style.safetensors")
    plain = studio.generate("TI2V-5B", quantization="int8")
    styled = studio.generate("TI2V-5B", quantization="int8", loras=[{"name": "style"}])
    assert styled.sha256 != plain.sha256
    assert [(each["expert"], each["keys_applied"], each["keys"]) for each in styled.outcome.loras] == [("only", 7, 7)]
    assert studio.generate("TI2V-5B", quantization="int8").sha256 == plain.sha256


def test_a_lora_on_an_int8_model(studio: Studio) -> None:
    write_lora(studio.settings.loras_dir / "style.safetensors")
    plain = studio.generate("TI2V-5B", quantization="int8")
    styled = studio.generate("TI2V-5B", quantization="int8", loras=[{"name": "style"}])
    assert styled.sha256 != plain.sha256
    assert studio.generate("TI2V-5B", quantization="int8").sha256 == plain.sha256


def test_files_of_the_library_are_applied_like_those_of_the_folder(studio: Studio) -> None:
    write_lora(studio.settings.loras_dir / "both.safetensors")
    write_lora(studio.settings.loras_dir / "pair.high.safetensors", scale=0.3)
    write_lora(studio.settings.loras_dir / "pair.low.safetensors", scale=0.7)
    wanted = [{"name": "both"}, {"name": "pair", "scale": 0.8}]
    of_folder = studio.generate("T2V-A14B", loras=wanted)
    paths, files = {}, []
    for name, expert in (("both", "both"), ("pair.high", "high"), ("pair.low", "low")):
        path = studio.settings.loras_dir / f"{name}.safetensors"
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        paths[sha256] = path.rename(path.with_name(f"{sha256}.safetensors"))
        about = {
            "name": name.partition(".")[0],
            "expert": expert,
            "sha256": sha256,
            "bytes": paths[sha256].stat().st_size,
        }
        files.append(about)
    of_library = studio.generate("T2V-A14B", loras=wanted, lora_files=files, lora_paths=paths)
    assert of_library.sha256 == of_folder.sha256
    assert [sorted(one["files"].values()) for one in of_library.outcome.manifest["loras"]] == [
        [files[0]["sha256"]],
        sorted(one["sha256"] for one in files[1:]),
    ]
    with pytest.raises(BadInput, match="no longer in the store"):
        studio.generate("T2V-A14B", loras=wanted, lora_files=files, lora_paths={})
    with pytest.raises(BadInput, match="pair for high and low noise"):
        studio.generate("TI2V-5B", loras=wanted[1:], lora_files=files[1:], lora_paths=paths)
