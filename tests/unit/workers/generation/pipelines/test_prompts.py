"""The cache of prompt embeddings: it returns the encoder's result, within a limit of bytes."""

import torch

from workers.generation.pipelines.prompts import PromptCache

ROWS, WIDTH = 16, 8
ROW_BYTES = WIDTH * 4


def embedding(words: int, value: float) -> torch.Tensor:
    made = torch.zeros(1, ROWS, WIDTH)
    made[:, :words] = value
    return made


class Encoder:
    def __init__(self) -> None:
        self.runs = 0

    def encode(self, words: int = 4) -> torch.Tensor:
        self.runs += 1
        return embedding(words, 1.5)


def test_a_repeat_is_bit_for_bit_the_first_and_runs_no_encoder() -> None:
    cache, encoder = PromptCache(10_000), Encoder()
    first = cache.embedding(("m", "a cat"), encoder.encode)
    again = cache.embedding(("m", "a cat"), encoder.encode)
    assert encoder.runs == 1
    assert torch.equal(first, again)
    assert again.shape == (1, ROWS, WIDTH)


def test_an_empty_embedding_survives() -> None:
    cache = PromptCache(10_000)
    cache.embedding(("m", ""), lambda: embedding(0, 0.0))
    assert torch.equal(cache.embedding(("m", ""), lambda: embedding(1, 1.0)), embedding(0, 0.0))


def test_models_do_not_share() -> None:
    cache, encoder = PromptCache(10_000), Encoder()
    cache.embedding(("one", "a cat"), encoder.encode)
    cache.embedding(("other", "a cat"), encoder.encode)
    assert encoder.runs == 2


def test_the_least_recently_used_goes_first_and_padding_does_not_count() -> None:
    cache, encoder = PromptCache(2 * 4 * ROW_BYTES), Encoder()
    cache.embedding(("a",), encoder.encode)
    cache.embedding(("b",), encoder.encode)
    cache.embedding(("a",), encoder.encode)
    assert encoder.runs == 2
    cache.embedding(("c",), encoder.encode)
    cache.embedding(("a",), encoder.encode)
    assert encoder.runs == 3
    cache.embedding(("b",), encoder.encode)
    assert encoder.runs == 4


def test_what_is_larger_than_the_cache_or_a_cache_of_nothing_is_not_kept() -> None:
    encoder = Encoder()
    for cache in (PromptCache(0), PromptCache(4 * ROW_BYTES - 1)):
        cache.embedding(("a",), encoder.encode)
        cache.embedding(("a",), encoder.encode)
    assert encoder.runs == 4
