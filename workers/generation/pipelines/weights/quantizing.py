"""The 8-bit forms of a transformer's weights, whether they are quantized while loading or in advance.

- `int8`: the weight of each linear layer in int8, with a scale for each row. It is expanded to bfloat16 to compute.
- `fp8`: the weights of the blocks' linear layers in e4m3, with a scale for each output channel. What arrives at such a
  layer is quantized for each token, and both are multiplied in 8 bits (`torch._scaled_mm`). What conditions the blocks
  (time, text and image embeddings, modulation) and the head stay in bfloat16, because they are small and every block
  depends on them. Norms stay in float32 in both forms.

torchao and diffusers are imported only where a form is used: that takes seconds and much memory, and a process that
only casts weights needs neither.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import torch

from shared.models.prepared import FP8_MULTIPLE, KEPT_IN_FP32, QUANTIZED_FORMS, Form

Quantized = Literal["int8", "fp8"]
# Names as diffusers compares them: parts of a tensor's name, each with the dot after it.
_NOT_IN_FP8 = ("condition_embedder", "proj_out")


def form_of(quantization: str) -> Quantized | None:
    """Return the form of a quantization; None if it does not quantize."""
    return next((form for form in QUANTIZED_FORMS if form == quantization), None)


def config(form: Quantized) -> Any:
    """Return the configuration with which diffusers quantizes while it loads."""
    from diffusers import TorchAoConfig

    kept = list(_NOT_IN_FP8) if form == "fp8" else None
    return TorchAoConfig(_recipe(form), modules_to_not_convert=kept)


def quantizer(model: Any, form: Quantized) -> Any:
    """Return diffusers' quantizer for a model whose weights are quantized already. Loading a LoRA asks for it."""
    from diffusers.quantizers import DiffusersAutoQuantizer

    made = DiffusersAutoQuantizer.from_config(config(form), pre_quantized=False)
    made.preprocess_model(model=model, device_map=None, keep_in_fp32_modules=list(KEPT_IN_FP32))
    return made


def quantizes(form: Form, name: str, shape: Iterable[int], linears: frozenset[str]) -> bool:
    """Return whether diffusers quantizes that tensor of a transformer: the weight of a linear layer, if not kept."""
    kept = KEPT_IN_FP32 if form == "int8" else KEPT_IN_FP32.union(_NOT_IN_FP8)
    if form == "bf16" or any(f"{each}." in name or each == name for each in kept):
        return False
    module, _, parameter = name.rpartition(".")
    return parameter == "weight" and module in linears and (form == "int8" or _divides(shape))


def quantized(form: Quantized, weight: torch.Tensor) -> torch.Tensor:
    """Return the weight as a linear layer holds it after quantizing."""
    from torchao.quantization import quantize_

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    quantize_(layer, _recipe(form))
    return layer.weight.data


def apply(model: Any, form: Quantized) -> None:
    """Quantize a model's weights in place."""
    from torchao.quantization import quantize_

    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    made = quantizer(model, form)

    def wanted(_: torch.nn.Module, name: str) -> bool:
        weight = linears[name].weight if name in linears else None
        return weight is not None and quantizes(form, f"{name}.weight", weight.shape, frozenset(linears))

    quantize_(model, _recipe(form), filter_fn=wanted)
    made.postprocess_model(model)
    model.hf_quantizer = made


def described(form: Quantized, like: torch.Tensor) -> dict[str, Any]:
    """Return what `composed` needs to put such a tensor together. Raises ValueError if torchao has changed."""
    parts, attributes = like.__tensor_flatten__()  # type: ignore[attr-defined]
    expected = _fp8_attributes() if form == "fp8" else {"act_quant_kwargs": None}
    if attributes["block_size"][0] != 1 or any(attributes[name] != value for name, value in expected.items()):
        raise ValueError("this torchao quantizes in another way than the recipe expects")
    found = {
        "parts": parts,
        "block_size": [int(each) for each in attributes["block_size"]],
        "dtype": str(attributes["dtype"]).removeprefix("torch."),
    }
    return found if form == "fp8" else {**found, "reduce_range": bool(attributes["reduce_range"])}


def composed(form: Quantized, attributes: dict[str, Any], parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the quantized tensor that consists of these parts."""
    block_size, dtype = attributes["block_size"], getattr(torch, attributes["dtype"])
    if form == "fp8":
        from torchao.quantization import Float8Tensor

        return Float8Tensor(block_size=block_size, dtype=dtype, **_fp8_attributes(), **parts)  # type: ignore[no-any-return]
    from torchao.quantization import Int8Tensor

    return Int8Tensor(  # type: ignore[no-any-return]
        parts.pop("qdata"), parts.pop("scale"), block_size, dtype, reduce_range=attributes["reduce_range"], **parts
    )


@cache
def _recipe(form: Quantized) -> Any:
    """Return the configuration of torchao."""
    if form == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return Int8WeightOnlyConfig()
    return _fp8_recipe()()


@cache
def _fp8_recipe() -> Any:
    """Return the class of the configuration for fp8.

    torchao's own (`Float8DynamicActivationFloat8WeightConfig`) refuses a host without such a card, but copies of
    weights are written on such hosts too. It also changes settings of the compiler for the whole process.
    """
    from torchao.core.config import AOBaseConfig
    from torchao.quantization import Float8Tensor
    from torchao.quantization.granularity import PerRow
    from torchao.quantization.transform_module import register_quantize_module_handler

    class Float8WeightByRow(AOBaseConfig):  # type: ignore[misc] # diffusers reads the size of weights from the name
        pass

    def transform(module: torch.nn.Module, _: Any, *, parameter_name: str = "weight") -> torch.nn.Module:
        weight = getattr(module, parameter_name).data
        if _divides(weight.shape):
            made = Float8Tensor.from_hp(weight, granularity=PerRow(), **_fp8_attributes())
            setattr(module, parameter_name, torch.nn.Parameter(made, requires_grad=False))
        return module

    register_quantize_module_handler(Float8WeightByRow)(transform)
    return Float8WeightByRow


@cache
def _fp8_attributes() -> dict[str, Any]:
    """Return how a weight in fp8 is multiplied: torch's own kernels, which every such card has."""
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization.granularity import PerRow
    from torchao.quantization.quantize_.common import KernelPreference
    from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs

    by_token = QuantizeTensorToFloat8Kwargs(granularity=PerRow(), kernel_preference=KernelPreference.TORCH)
    return {
        "mm_config": Float8MMConfig(use_fast_accum=True),
        "act_quant_kwargs": by_token,
        "kernel_preference": KernelPreference.TORCH,
    }


def _divides(shape: Iterable[int]) -> bool:
    return all(edge % FP8_MULTIPLE == 0 for edge in shape)
