"""Conversion of `/v1/videos` requests to generations: lengths, names, and errors."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from api.schemas.jobs.jobs import JobProgress
from api.schemas.videos import VideoRequest, poll_after_ms, video
from api.videos.request import frames_of, generation_request, reference, with_video_names
from shared.catalogue import models as catalogue
from shared.catalogue.resolving import resolve
from shared.database.tables import Job
from shared.errors import FieldError, InvalidField
from wanworks.requests import GenerationRequest

MODELS = catalogue.load("default")
T2V, I2V, TI2V = MODELS.entries[:3]


def translated(with_image: bool = False, **fields: Any) -> GenerationRequest:
    made = generation_request(VideoRequest.model_validate({"prompt": "a cat", **fields}), MODELS, with_image=with_image)
    if made.wrong:
        raise with_video_names(InvalidField(*made.wrong))
    return made.request


def refused(with_image: bool = False, **fields: Any) -> FieldError:
    with pytest.raises(InvalidField) as error:
        translated(with_image, **fields)
    return error.value.errors[0]


@pytest.mark.parametrize(
    ("model", "fields", "frames"),
    [
        ("T2V-A14B", {"seconds": "5"}, 81),
        ("T2V-A14B", {"seconds": "4"}, 65),
        ("T2V-A14B", {"seconds": 4}, 65),
        ("T2V-A14B", {"seconds": "0.5"}, 9),
        ("T2V-A14B", {"seconds": "2.6"}, 41),  # 41.6 + 1 lies between 41 and 45
        ("T2V-A14B", {"seconds": "10", "fps": 8}, 81),
        ("TI2V-5B", {"seconds": "5"}, 121),
        ("TI2V-5B", {"seconds": "4"}, 97),
    ],
)
def test_seconds_become_frames_on_the_grid(model: str, fields: dict[str, Any], frames: int) -> None:
    request = translated(model=model, **fields)
    assert request.frames == frames
    assert (frames - 1) % 4 == 0


@pytest.mark.parametrize("fps", [8, 12, 16, 24])
@pytest.mark.parametrize("entry", MODELS.entries, ids=lambda entry: entry.model_id)
def test_every_length_is_supported_or_refused_with_the_allowed_ones(entry: catalogue.CatalogueEntry, fps: int) -> None:
    for tenths in range(1, 200):
        try:
            frames = frames_of(tenths / 10, fps, entry)
        except InvalidField as error:
            (wrong,) = error.errors
            assert wrong.loc == ("body", "seconds")
            low, _, high = wrong.msg.rpartition("allowed: ")[2].partition(" to ")
            assert not float(low) <= tenths / 10 <= float(high)
            assert frames_of(float(low), fps, entry) < frames_of(float(high), fps, entry)
        else:
            assert entry.min_frames <= frames <= entry.max_frames
            assert abs((frames - 1) / fps - tenths / 10) <= 2 / fps + 1e-9


def test_eight_seconds_are_refused_with_the_allowed_lengths() -> None:
    wrong = refused(model="T2V-A14B", seconds="8")
    assert wrong.loc == ("body", "seconds")
    assert wrong.msg == "8 is not supported by T2V-A14B at 16 fps; allowed: 0.5 to 5"


def test_every_field_is_converted() -> None:
    request = translated(
        model="Wan-AI/Wan2.2-T2V-A14B-Diffusers", size="832x480", num_frames=33, fps=12, num_inference_steps=20,
        guidance_scale=4.5, guidance_scale_2=3.5, flow_shift=7, negative_prompt="blur", seed=7, output_format="webm",
        quantization="int8", loras=[{"name": "ghibli", "scale": 0.5}], priority="high", fallback=["queue_and_wait"],
        metadata={"team": "a"}, webhook_url="https://example.com/hook", webhook_progress=True,
        start_after="2026-01-31T12:00:00Z", max_attempts=2,
    )  # fmt: skip
    assert request.model_dump(exclude_unset=True, mode="json") == {
        "model_id": "T2V-A14B", "prompt": "a cat", "negative_prompt": "blur", "resolution": "832x480", "frames": 33,
        "fps": 12, "output_format": "webm", "steps": 20, "guidance_scale": 4.5, "guidance_scale_2": 3.5,
        "flow_shift": 7.0, "seed": 7, "quantization": "int8", "loras": [{"name": "ghibli", "scale": 0.5}],
        "priority": "high", "fallback": ["queue_and_wait"], "metadata": {"team": "a"},
        "webhook_url": "https://example.com/hook", "webhook_progress": True,
        "start_after": "2026-01-31T12:00:00Z", "max_attempts": 2,
    }  # fmt: skip


def test_every_field_of_a_generation_can_be_requested() -> None:
    ours = {"model_id", "image", "resolution", "frames", "steps", "count"}  # a response is one video
    assert set(GenerationRequest.model_fields) - ours <= set(VideoRequest.model_fields)


def test_guidance_scale_belongs_to_the_high_noise_expert_as_in_diffusers() -> None:
    params = resolve(translated(model="wan2.2-t2v-a14b", guidance_scale=6, guidance_scale_2=2), T2V, None)
    assert (params.guidance_scale, params.guidance_scale_2) == (6, 2)
    native = resolve(translated(model="wan2.2-t2v-a14b"), T2V, None)
    assert (native.guidance_scale, native.guidance_scale_2) == (4.0, 3.0)


def test_without_a_model_the_first_suitable_one_is_used() -> None:
    assert translated().model_id == "T2V-A14B"
    assert translated(with_image=True).model_id == "I2V-A14B"


@pytest.mark.parametrize("seconds", ["4", "5", 3600])
def test_frames_take_precedence_over_seconds(seconds: Any) -> None:
    assert translated(seconds=seconds, num_frames=33).frames == 33


@pytest.mark.parametrize(
    "name",
    ["T2V-A14B", "wan2.2-t2v-a14b", "Wan-AI/Wan2.2-T2V-A14B", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"],
)
@pytest.mark.parametrize("source", ["default", "demo"])
def test_models_by_id_and_aliases(name: str, source: str) -> None:
    assert catalogue.load(source).named(name).model_id == "T2V-A14B"


def test_a_model_from_a_file_has_the_names_of_its_repository(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[models.Mine]\nextends = "T2V-A14B"\nrepo = "house/wan-mine-Diffusers"\n')
    models = catalogue.load(str(path))
    assert {models.named(name).model_id for name in ("house/wan-mine-Diffusers", "house/wan-mine")} == {"Mine"}
    assert models.named("Wan-AI/Wan2.2-T2V-A14B").model_id == "T2V-A14B"


@pytest.mark.parametrize("seed", [-1, None])
def test_a_random_seed(seed: int | None) -> None:
    request = translated(model="T2V-A14B", seed=seed)
    assert request.seed is None
    assert 0 <= resolve(request, T2V, None).seed < 2**32


def test_width_and_height_are_a_size() -> None:
    assert translated(width=1280, height=720).resolution == "1280x720"
    assert refused(width=1280).loc == ("body", "height")
    assert refused(width=1280, height=720, size="832x480").loc == ("body", "size")
    assert translated(width=1280, height=720, size="1280x720").resolution == "1280x720"


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"model": "sora-9"}, "model", "there is no model 'sora-9'; available: T2V-A14B or wan2.2-t2v-a14b"),
        ({"webhook_url": "ftp://example.com"}, "webhook_url", "must begin with http"),
    ],
)
def test_invalid_fields_are_reported(fields: dict[str, Any], field: str, message: str) -> None:
    wrong = refused(**fields)
    assert wrong.loc == ("body", field)
    assert message in wrong.msg


def test_an_image_for_a_model_without_image_input() -> None:
    wrong = refused(with_image=True, model="wan2.2-t2v-a14b")
    assert wrong.loc == ("body", "input_reference")
    assert wrong.msg == "T2V-A14B does not accept an image; leave it out or choose another model"
    assert translated(with_image=True, model="wan2.2-ti2v-5b").model_id == "TI2V-5B"


def test_errors_of_admission_have_the_video_field_names() -> None:
    with pytest.raises(InvalidField) as error:
        resolve(translated(model="wan2.2-i2v-a14b", size="100x100", num_frames=999, num_inference_steps=1), I2V, None)
    renamed = with_video_names(error.value)
    assert [one.loc[1] for one in renamed.errors] == ["size", "num_frames", "num_inference_steps", "input_reference"]
    inside = with_video_names(InvalidField(FieldError(("body", "metadata", "image"), "too long", "x")))
    assert inside.errors[0].loc == ("body", "metadata", "image")


@pytest.mark.parametrize("seconds", ["", "-1", "five", "1e2", "1_0", " 5", "\u0665", True, "0", 0, -1, float("nan")])
def test_invalid_lengths(seconds: Any) -> None:
    with pytest.raises(ValueError, match="seconds"):
        VideoRequest.model_validate({"prompt": "a cat", "seconds": seconds})


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, None),
        ({"input_reference": "https://example.com/a.png"}, "https://example.com/a.png"),
        ({"input_reference": {"image_url": "data:image/png;base64,AA=="}}, "data:image/png;base64,AA=="),
        ({"image_reference": {"image_url": "https://example.com/a.png"}}, "https://example.com/a.png"),
    ],
)
def test_the_reference_to_the_image(fields: dict[str, Any], found: str | None) -> None:
    assert reference(VideoRequest.model_validate({"prompt": "a cat", **fields})) == found


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input_reference": {"file_id": "file-1"}}, ("input_reference", "file_id")),
        ({"input_reference": {}}, ("input_reference", "image_url")),
        ({"input_reference": "https://a/", "image_reference": "https://b/"}, ("image_reference",)),
    ],
)
def test_an_invalid_image_reference(fields: dict[str, Any], field: tuple[str, ...]) -> None:
    with pytest.raises(InvalidField) as error:
        reference(VideoRequest.model_validate({"prompt": "a cat", **fields}))
    assert error.value.errors[0].loc == ("body", *field)


CREATED = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENDED = datetime(2026, 1, 31, 12, 5, tzinfo=UTC)


def row(status: str, **more: Any) -> Job:
    params = resolve(translated(model="T2V-A14B", seconds="4", size="832x480"), T2V, None).model_dump(mode="json")
    values = {"id": "v", "type": "generation", "priority": 2, "params": params, "labels": {}, "created_at": CREATED}
    return Job(**{**values, "queued_at": 0.0, "status": status, **more})


def test_a_row_as_a_video() -> None:
    shown = video(row("running"), JobProgress(percent=99.7), retention_days=30).model_dump()
    assert shown == {
        "id": "v", "object": "video", "model": "T2V-A14B", "status": "in_progress", "progress": 99, "prompt": "a cat",
        "seconds": "4", "size": "832x480", "created_at": 1769860800, "completed_at": None, "expires_at": None,
        "remixed_from_video_id": None, "error": None,
    }  # fmt: skip
    done = video(row("succeeded", finished_at=ENDED), JobProgress(percent=100), retention_days=2)
    assert (done.status, done.progress) == ("completed", 100)
    assert (done.completed_at, done.expires_at) == (1769861100, 1769861100 + 2 * 86400)


def test_the_states_of_a_video() -> None:
    error = {"code": "out_of_memory", "message": "No memory left", "retryable": False}
    failed = video(row("failed", finished_at=ENDED, error=error), JobProgress(percent=40), 30)
    cancelled = video(row("cancelled", finished_at=ENDED), JobProgress(percent=0), 30)
    assert video(row("queued"), JobProgress(percent=0), 30).status == "queued"
    assert (failed.status, cancelled.status) == ("failed", "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("out_of_memory", "No memory left")
    assert cancelled.error is not None
    assert cancelled.error.code == "cancelled"
    assert (failed.expires_at, failed.completed_at) == (None, 1769861100)


@pytest.mark.parametrize(
    ("seconds_left", "milliseconds"), [(None, 1000), (0.0, 500), (-3.0, 500), (12.0, 1200), (3600.0, 5000)]
)
def test_when_to_poll_again(seconds_left: float | None, milliseconds: int) -> None:
    assert poll_after_ms(seconds_left) == milliseconds
