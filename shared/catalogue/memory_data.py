"""The memory facts of the catalogue's models, as `wanworks measure-memory` derives them. Data only.

The published models have two experts of 14.3 billion parameters or one of 5.0, and the same text encoder. The tiny ones
are those of the demo catalogue. A test repeats the derivation.
"""

from shared.catalogue.memory_facts import Activations, Memory, Sizes, Weights

_UMT5 = Weights(
    whole=Sizes(bf16=11_361_820_672, fp16=13_375_086_592, fp32=22_723_641_344, int8=5_687_312_000, fp8=11_361_820_672),
    block=Sizes(bf16=385_896_448, fp16=469_782_528, fp32=771_792_896, int8=193_161_376, fp8=385_896_448),
    outside=Sizes(bf16=2_100_305_920, fp16=2_100_305_920, fp32=4_200_611_840, int8=1_051_438_976, fp8=2_100_305_920),
)
_VAE_16 = Weights(
    whole=Sizes(bf16=507_570_124, fp16=507_570_124, fp32=507_570_124, int8=507_570_124, fp8=507_570_124),
    block=Sizes(bf16=0, fp16=0, fp32=0, int8=0, fp8=0),
    outside=Sizes(bf16=507_570_124, fp16=507_570_124, fp32=507_570_124, int8=507_570_124, fp8=507_570_124),
)
_TINY_TEXT = Weights(
    whole=Sizes(bf16=213_760, fp16=246_528, fp32=427_520, int8=115_185, fp8=213_760),
    block=Sizes(bf16=82_432, fp16=98_816, fp32=164_864, int8=44_384, fp8=82_432),
    outside=Sizes(bf16=48_896, fp16=48_896, fp32=97_792, int8=26_417, fp8=48_896),
)
_TINY_VAE = Weights(
    whole=Sizes(bf16=717_180, fp16=717_180, fp32=717_180, int8=717_180, fp8=717_180),
    block=Sizes(bf16=0, fp16=0, fp32=0, int8=0, fp8=0),
    outside=Sizes(bf16=717_180, fp16=717_180, fp32=717_180, int8=717_180, fp8=717_180),
)

T2V_A14B = Memory(
    transformer=Weights(
        whole=Sizes(
            bf16=28_635_351_168, fp16=28_635_351_168, fp32=57_153_966_336, int8=14_391_818_688, fp8=14_594_017_408
        ),
        block=Sizes(bf16=702_870_528, fp16=702_870_528, fp32=1_405_577_216, int8=351_897_088, fp8=351_837_184),
        outside=Sizes(bf16=520_530_048, fp16=520_530_048, fp32=930_877_696, int8=315_935_168, fp8=520_530_048),
    ),
    text_encoder=_UMT5,
    vae=_VAE_16,
    activations=Activations(
        text=96_468_992,
        denoise=(20117500.0, 113284.0),
        denoise_fp8=(9631750.0, 248964.0),
        decode=(1899660.0, 19509.3, 2.07964),
        encode=(0.0, 0.0, 0.0),
        encode_tile=0,
    ),
    encodes="nothing",
    pixels_per_token=16,
    pixels_per_latent=8,
    width=5120,
)

I2V_A14B = Memory(
    transformer=Weights(
        whole=Sizes(
            bf16=28_636_170_368, fp16=28_636_170_368, fp32=57_155_604_736, int8=14_392_637_888, fp8=14_594_836_608
        ),
        block=Sizes(bf16=702_870_528, fp16=702_870_528, fp32=1_405_577_216, int8=351_897_088, fp8=351_837_184),
        outside=Sizes(bf16=521_349_248, fp16=521_349_248, fp32=932_516_096, int8=316_754_368, fp8=521_349_248),
    ),
    text_encoder=_UMT5,
    vae=_VAE_16,
    activations=Activations(
        text=96_468_992,
        denoise=(20117500.0, 113444.0),
        denoise_fp8=(9631750.0, 249124.0),
        decode=(1899660.0, 19509.3, 2.07964),
        encode=(1894570.0, 14084.9, 12.5192),
        encode_tile=938_091_520,
    ),
    encodes="video",
    pixels_per_token=16,
    pixels_per_latent=8,
    width=5120,
)

TI2V_5B = Memory(
    transformer=Weights(
        whole=Sizes(
            bf16=10_021_521_792, fp16=10_021_521_792, fp32=19_999_150_848, int8=5_041_374_528, fp8=5_119_224_192
        ),
        block=Sizes(bf16=327_362_560, fp16=327_362_560, fp32=654_626_816, int8=163_994_624, fp8=163_952_640),
        outside=Sizes(bf16=200_644_992, fp16=200_644_992, fp32=360_346_368, int8=121_535_808, fp8=200_644_992),
    ),
    text_encoder=_UMT5,
    vae=Weights(
        whole=Sizes(bf16=2_818_754_672, fp16=2_818_754_672, fp32=2_818_754_672, int8=2_818_754_672, fp8=2_818_754_672),
        block=Sizes(bf16=0, fp16=0, fp32=0, int8=0, fp8=0),
        outside=Sizes(
            bf16=2_818_754_672, fp16=2_818_754_672, fp32=2_818_754_672, int8=2_818_754_672, fp8=2_818_754_672
        ),
    ),
    activations=Activations(
        text=96_468_992,
        denoise=(16391200.0, 198536.0),
        denoise_fp8=(7340030.0, 357256.0),
        decode=(5091180.0, 21600.9, 1.71261),
        encode=(763746.0, 979.853, 979.853),
        encode_tile=514_727_424,
    ),
    encodes="image",
    pixels_per_token=32,
    pixels_per_latent=16,
    width=3072,
)

TINY_T2V = Memory(
    transformer=Weights(
        whole=Sizes(bf16=734_400, fp16=734_400, fp32=1_399_680, int8=427_200, fp8=497_600),
        block=Sizes(bf16=251_840, fp16=251_840, fp32=500_608, int8=134_560, fp8=133_440),
        outside=Sizes(bf16=230_720, fp16=230_720, fp32=398_464, int8=158_080, fp8=230_720),
    ),
    text_encoder=_TINY_TEXT,
    vae=_TINY_VAE,
    activations=Activations(
        text=14_295_040,
        denoise=(364100.0, 2340.0),
        denoise_fp8=(167492.0, 4836.0),
        decode=(78993.7, 756.305, 2.00324),
        encode=(0.0, 0.0, 0.0),
        encode_tile=0,
    ),
    encodes="nothing",
    pixels_per_token=16,
    pixels_per_latent=8,
    width=96,
)

TINY_I2V = Memory(
    transformer=Weights(
        whole=Sizes(bf16=749_760, fp16=749_760, fp32=1_430_400, int8=442_560, fp8=512_960),
        block=Sizes(bf16=251_840, fp16=251_840, fp32=500_608, int8=134_560, fp8=133_440),
        outside=Sizes(bf16=246_080, fp16=246_080, fp32=429_184, int8=173_440, fp8=246_080),
    ),
    text_encoder=_TINY_TEXT,
    vae=_TINY_VAE,
    activations=Activations(
        text=14_295_040,
        denoise=(364100.0, 2500.0),
        denoise_fp8=(167492.0, 4996.0),
        decode=(78993.7, 756.305, 2.00324),
        encode=(14632200.0, 121.476, 22.2485),
        encode_tile=46_432_640,
    ),
    encodes="video",
    pixels_per_token=16,
    pixels_per_latent=8,
    width=96,
)

TINY_TI2V = Memory(
    transformer=Weights(
        whole=Sizes(bf16=783_808, fp16=783_808, fp32=1_498_496, int8=464_960, fp8=547_008),
        block=Sizes(bf16=251_840, fp16=251_840, fp32=500_608, int8=134_560, fp8=133_440),
        outside=Sizes(bf16=280_128, fp16=280_128, fp32=497_280, int8=195_840, fp8=280_128),
    ),
    text_encoder=_TINY_TEXT,
    vae=Weights(
        whole=Sizes(bf16=965_584, fp16=965_584, fp32=965_584, int8=965_584, fp8=965_584),
        block=Sizes(bf16=0, fp16=0, fp32=0, int8=0, fp8=0),
        outside=Sizes(bf16=965_584, fp16=965_584, fp32=965_584, int8=965_584, fp8=965_584),
    ),
    activations=Activations(
        text=14_295_040,
        denoise=(469959.0, 6593.45),
        denoise_fp8=(163840.0, 8744.0),
        decode=(79325.9, 416.305, 1.50321),
        encode=(57300.3, 38.1389, 38.1389),
        encode_tile=20_070_976,
    ),
    encodes="image",
    pixels_per_token=32,
    pixels_per_latent=16,
    width=96,
)

TINY = {"T2V-A14B": TINY_T2V, "I2V-A14B": TINY_I2V, "TI2V-5B": TINY_TI2V}
