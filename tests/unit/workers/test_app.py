"""What the start of a worker sets in its environment."""

import pytest

from workers.app import set_allocator

CHOSEN = "expandable_segments:True"


@pytest.mark.parametrize(
    ("environ", "added"),
    [
        ({"WANWORKS_DEVICE": "cuda:1"}, {"PYTORCH_ALLOC_CONF": CHOSEN}),
        ({"WANWORKS_DEVICE": "cpu:0"}, {}),
        ({"WANWORKS_DEVICE": "cuda:0", "PYTORCH_ALLOC_CONF": "max_split_size_mb:100"}, {}),
        ({"WANWORKS_DEVICE": "cuda:0", "PYTORCH_CUDA_ALLOC_CONF": ""}, {}),
    ],
)
def test_a_gpu_worker_gets_the_configured_allocator_unless_there_is_one(
    environ: dict[str, str], added: dict[str, str]
) -> None:
    result = dict(environ)
    set_allocator(result, CHOSEN)
    assert result == {**environ, **added}


def test_an_empty_setting_leaves_torch_its_default() -> None:
    environ = {"WANWORKS_DEVICE": "cuda:0"}
    set_allocator(environ, "")
    assert environ == {"WANWORKS_DEVICE": "cuda:0"}
