"""The figures that the memory plan computes with: derived again, and compared with passes of other sizes."""

import pytest

from shared.catalogue import memory_data
from shared.catalogue.memory_facts import Encodes, Memory
from shared.models import memory_plan
from workers.generation import demo_models
from workers.generation.pipelines import measuring
from workers.generation.pipelines.measuring import Components

VOCABULARY = 256_384  # of the published tokenizer
REAL: dict[str, tuple[Encodes, Memory]] = {
    "T2V-A14B": ("nothing", memory_data.T2V_A14B),
    "I2V-A14B": ("video", memory_data.I2V_A14B),
    "TI2V-5B": ("image", memory_data.TI2V_5B),
}
OTHERS = ((832, 480, 49), (1280, 720, 81), (480, 832, 81), (576, 1024, 17), (1920, 1088, 81))


def components(model_id: str) -> Components:
    shape = demo_models.REAL[model_id]
    text = {"vocab_size": VOCABULARY, **shape.text_encoder}
    return measuring.build(shape.transformer, shape.vae, text, REAL[model_id][0])


@pytest.mark.parametrize(
    "model_id",
    ["TI2V-5B", *(pytest.param(name, marks=pytest.mark.slow) for name in ("T2V-A14B", "I2V-A14B"))],
)
def test_the_formulas_hold_at_other_sizes(model_id: str) -> None:
    made, memory = components(model_id), REAL[model_id][1]
    for size in OTHERS:
        width, height, frames = size
        planned = memory_plan.Size(width, height, frames, image=True)
        pairs = [
            (measuring.denoise_peak(made, size), memory_plan.denoise_bytes(memory, planned)),
            (measuring.decode_peak(made, size), memory_plan.decode_bytes(memory, planned)),
        ]
        if made.encodes != "nothing":
            pairs.append((measuring.encode_peak(made, size), memory_plan.encode_bytes(memory, planned)))
        for measured, with_margin in pairs:
            without = with_margin / memory_plan.MARGIN
            assert abs(without / measured - 1) < memory_plan.MARGIN - 1, (size, measured, without)


@pytest.mark.slow
@pytest.mark.parametrize("model_id", REAL)
def test_the_catalogue_has_what_is_measured(model_id: str) -> None:
    assert measuring.measure(components(model_id)) == REAL[model_id][1]
