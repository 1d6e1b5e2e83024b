"""What a model needs in memory: the sizes of its weights, and formulas for everything else. Data only.

`wanworks measure-memory` derives these figures from a model's configuration on meta tensors
(`workers/generation/pipelines/measuring.py`); `shared/models/memory_plan.py` computes with them. All are bytes.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Encodes = Literal["nothing", "image", "video"]  # video: the image, followed by empty frames
Bytes = Annotated[int, Field(ge=0)]
# Bytes for each of the features that the formula's name lists.
Linear = tuple[float, float]
Plane = tuple[float, float, float]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sizes(_Facts):
    """The size of the same weights in each type. What must stay in 32 bits does so in every type."""

    bf16: Bytes
    fp16: Bytes
    fp32: Bytes
    int8: Bytes  # weights of linear layers in 8 bits, the others in bf16
    fp8: Bytes | None = None  # those of the transformer's blocks in 8 bits; None: not derived, as large as bf16 at most


class Weights(_Facts):
    """The weights of one component."""

    whole: Sizes
    block: Sizes  # of its largest block; streaming holds two at a time
    outside: Sizes  # what belongs to no block


class Activations(_Facts):
    """The largest sum of live tensors in a stage, beside the weights."""

    text: Bytes  # of the text encoder at its greatest length
    denoise: Linear  # 1, tokens; of a transformer in 16 bits
    # Of one in fp8, which also holds each layer's input in 8 bits, and in 32 while it is quantized. None: not derived.
    denoise_fp8: Linear | None = None
    decode: Plane  # 1, pixels of a frame, pixels of a frame x latent frames; whole, in 32 bits
    encode: Plane  # 1, pixels of a frame, pixels of all encoded frames; whole, in 32 bits
    encode_tile: Bytes  # the encoder's part if it encodes in tiles, without the encoded frames themselves


class Memory(_Facts):
    """All facts of one model."""

    transformer: Weights  # of one; a model with two experts has two of the same size
    text_encoder: Weights
    vae: Weights
    activations: Activations
    encodes: Encodes  # of a model that starts from an image
    pixels_per_token: Annotated[int, Field(ge=1)]  # along an edge
    pixels_per_latent: Annotated[int, Field(ge=1)]  # along an edge
    width: Annotated[int, Field(ge=1)] = 5120  # channels of a token in the transformer; by default those of A14B
