"""fp8 weights: their arithmetic, what stays in 16 bits, LoRAs, and that only devices that have it run it.

No device of the tests has fp8. A CPU computes the same numbers, slowly, and only here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from starlette.testclient import TestClient

from scheduler.placement.devices import Moment, decide
from shared.database.engine import Database
from shared.forecast.slots import DeviceView, Estimates
from shared.jobs import accepting, dispatch
from shared.models import memory_plan, prepared
from shared.models.memory_plan import Needs
from shared.settings import Settings
from tests.integration.workers.generation.lora_files import write_differences, write_lora
from tests.support.jobs import new_job
from tests.support.models import library
from tests.support.models.generating import CATALOGUE, Studio, snapshots
from tests.support.models.prepared_models import own, prepared_here
from workers.generation import run
from workers.generation.pipelines.weights import loading, quantizing
from workers.models.preparing import plan

URL = "/api/v1/jobs/generation"
WISH: dict[str, Any] = {"model_id": "T2V-A14B", "prompt": "a boat at sea", "quantization": "fp8"}


def test_a_layer_multiplies_its_dequantized_numbers() -> None:
    from torchao.quantization import Float8Tensor
    from torchao.quantization.granularity import PerRow

    random = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 96, generator=random).bfloat16() * torch.logspace(-3, 3, 64)[:, None].bfloat16()
    given = torch.randn(2, 5, 96, generator=random).bfloat16() * torch.logspace(-2, 2, 5)[:, None].bfloat16()
    bias = torch.randn(64, generator=random).bfloat16()
    quantized: Any = quantizing.quantized("fp8", weight)
    assert (quantized.qdata.dtype, tuple(quantized.scale.shape)) == (torch.float8_e4m3fn, (64, 1))
    # e4m3 has three bits of mantissa, and its numbers below 2^-6 are 2^-9 apart; the scale puts a row's largest to 448.
    by_hand = weight.double()
    error = (quantized.dequantize(torch.float32).double() - by_hand).abs()
    assert bool((error <= by_hand.abs() / 16 + by_hand.abs().amax(1, keepdim=True) / 448 * 2**-10 * 1.01).all())
    token: Any = Float8Tensor.from_hp(given, granularity=PerRow())
    assert tuple(token.scale.shape) == (2, 5, 1)
    expected = (token.qdata.double() * token.scale) @ (quantized.qdata.double() * quantized.scale).t() + bias
    made = torch.nn.functional.linear(given, quantized, bias).double()
    assert bool(
        ((made - expected).abs() <= 2**-7 * expected.abs() + 1e-2 * expected.abs().amax(-1, keepdim=True)).all()
    )


def test_only_the_linear_layers_of_the_blocks_are_quantized() -> None:
    model = loading.load(
        snapshots()["I2V-A14B"], CATALOGUE.get("I2V-A14B"), "fp8", "none", torch.device("cpu"), lambda: None
    )
    (one, _) = model.transformers
    found = {name: parameter.data for name, parameter in one.named_parameters()}
    quantized = {name for name, tensor in found.items() if hasattr(tensor, "__tensor_flatten__")}
    linears = {f"{name}.weight" for name, module in one.named_modules() if isinstance(module, torch.nn.Linear)}
    assert quantized == {name for name in linears if name.startswith("blocks.")}
    others = {name: tensor.dtype for name, tensor in found.items() if name not in quantized}
    assert {others["proj_out.weight"], others["condition_embedder.text_embedder.linear_1.weight"]} == {torch.bfloat16}
    assert others["blocks.0.scale_shift_table"] == torch.float32
    assert model.key.profile == "fp8-full"
    planned = CATALOGUE.get("I2V-A14B").memory.transformer.whole.fp8
    assert sum(loading._tensor_bytes(tensor) for tensor in found.values()) == planned


def test_the_file_has_the_bytes_of_the_plan(tmp_path: Path) -> None:
    folder = own(tmp_path, "T2V-A14B")
    (estimated,) = (work.bytes for work in plan.lacking(folder, "fp8") if work.component == "transformer")
    prepared_here(tmp_path, "T2V-A14B", "fp8")
    copy = prepared.find(folder, "transformer", "fp8")
    assert copy is not None
    size, types = 0, set[torch.dtype]()
    for file in copy.files:
        with safe_open(folder / file.path, framework="pt") as opened:
            tensors = [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118 - it is not a mapping
        types |= {tensor.dtype for tensor in tensors}
        size += sum(tensor.nbytes for tensor in tensors)
    assert types == {torch.float8_e4m3fn, torch.bfloat16, torch.float32}
    assert size == estimated == CATALOGUE.get("T2V-A14B").memory.transformer.whole.fp8


@pytest.mark.parametrize("write", [write_lora, write_differences])
def test_a_lora_on_an_fp8_model(studio: Studio, write: Callable[[Path], object]) -> None:
    write(studio.settings.loras_dir / "style.safetensors")
    plain = studio.generate("TI2V-5B", quantization="fp8")
    styled = studio.generate("TI2V-5B", quantization="fp8", loras=[{"name": "style"}])
    assert styled.sha256 != plain.sha256
    assert studio.generate("TI2V-5B", quantization="fp8").sha256 == plain.sha256
    run.free()


@pytest.fixture
def client(settings: Settings, make_client: Any) -> TestClient:
    """The API with the published models."""
    return make_client(Settings(**{**settings.model_dump(), "catalogue": "default"}))


@pytest.mark.parametrize(("kind", "capability"), [("cpu", None), ("cuda", 80), ("cuda", None)])
def test_it_is_refused_where_no_device_has_it(
    client: TestClient, database: Database, kind: str, capability: int | None
) -> None:
    library.node(database)
    library.device(database, kind=kind, memory_mb=999_000, compute_capability=capability)
    assert client.post(URL, json={**WISH, "quantization": "int8"}).status_code == 202
    answer = client.post(URL, json=WISH)
    assert answer.status_code == 422
    assert "fp8 needs a GPU of compute capability 8.9 or more" in answer.json()["errors"][0]["msg"]
    library.replica(database)
    instead = client.post(URL, json={**WISH, "fallback": ["reduce_requirements"]}).json()
    assert instead["params"]["quantization"] == "int8"
    library.device(database, index=1, memory_mb=150_000, compute_capability=89)
    assert client.post(URL, json=WISH).status_code == 202


def test_where_memory_is_missing_only_devices_that_have_it_are_named(client: TestClient, database: Database) -> None:
    library.node(database)
    library.device(database, memory_mb=150_000, compute_capability=80)
    library.device(database, index=1, memory_mb=8_000, compute_capability=89)
    body = client.post(URL, json={**WISH, "resolution": "1920x1080"}).json()
    assert body["code"] == "not_enough_memory"
    assert [one["device"] for one in body["missing"]] == ["here/1"]
    assert {one["changes"].get("quantization") for one in body["alternatives"]} >= {"int8"}


def test_an_accepted_job_waits_for_a_device_that_has_it(
    settings: Settings, database: Database, make_client: Any
) -> None:
    client = make_client(Settings(**{**settings.model_dump(), "catalogue": "default", "admission": "any"}))
    library.node(database)
    library.device(database, memory_mb=150_000, compute_capability=80)
    library.replica(database)
    job = client.get(client.post(URL, json=WISH).headers["location"]).json()
    assert job["waiting_for"]["reason"] == "device"
    assert "which none of the 1 registered devices has" in job["waiting_for"]["detail"]


def test_placement_gives_it_to_a_device_that_has_it(database: Database) -> None:
    entry = CATALOGUE.get("T2V-A14B")
    needs = memory_plan.needs(entry, "fp8", memory_plan.default_size(entry))
    read = Needs.read(needs)
    assert read.capability == 89
    assert max(device for device, _ in read.cuda) < 100_000
    job = new_job(request={"quantization": "fp8"})
    assert job.memory_needs == memory_plan.needs(entry, "fp8", memory_plan.Size.of(entry, 64, 64, 9, image=False))
    accepting.accept(database, [job])
    queue = dispatch.read_queue(database)
    views = [
        DeviceView(f"n/{index}", "n", kind, 999_000, frozenset(), frozenset({"T2V-A14B"}), capability=capability)
        for index, (kind, capability) in enumerate((("cpu", None), ("cuda", 86), ("cuda", None), ("cuda", 90)))
    ]
    estimates = Estimates(lambda _: 1.0, lambda *_: 1.0)
    assert [one.device_key for one in decide(Moment(queue, tuple(views), estimates))] == ["n/3"]
    assert list(decide(Moment(queue, tuple(views[:3]), estimates))) == []


def test_an_earlier_version_finds_no_device_for_it() -> None:
    """It reads the figures as they are, which no device has."""
    entry = CATALOGUE.get("T2V-A14B")
    pairs, _, on_cpu = memory_plan.needs(entry, "fp8", memory_plan.default_size(entry)).partition(";")
    assert all(int(pair.partition(":")[0]) > 80 * 10**9 for pair in pairs.split(","))
    assert int(on_cpu) > 80 * 10**9
