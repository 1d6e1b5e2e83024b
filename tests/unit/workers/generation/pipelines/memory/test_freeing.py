"""What is returned when a model is evicted."""

import pytest
import torch

from workers.generation.pipelines.memory.freeing import give_back


def test_the_allocators_of_device_and_host_memory_are_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("device"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: emptied.append("host"))
    give_back()
    assert emptied == ["device", "host"]
    monkeypatch.delattr(torch.accelerator, "empty_host_cache")
    give_back()
    assert emptied == ["device", "host", "device"]
