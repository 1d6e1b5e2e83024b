"""The sections of the GPU check, with tiny components on the CPU: what they compute, not how fast."""

from importlib import import_module

import pytest
import torch

from tests.gpu.__main__ import SECTIONS, main
from tests.gpu.components import SMALL
from tests.gpu.table import Table


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("loading", "stream"))) for name in SECTIONS]
)
def test_a_section_prints_its_table_and_finds_nothing_wrong(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(name)
    table.begin("the CPU")
    module, function = SECTIONS[name]
    getattr(import_module(module), function)(table, torch.device("cpu"), SMALL)
    assert table.exceeded == []
    assert "| check | measured | bound |" in capsys.readouterr().out


def test_an_unknown_section_is_answered_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steam"]) == 2
    names = "stream, lora, host-memory, memory-plan, fp8, steps, loading, faults"
    assert f"There is no section 'steam'. The sections are {names}." in capsys.readouterr().out


def test_a_row_over_its_bound_is_noted() -> None:
    table = Table("any")
    table.row("fits", 1.0, "s", at_most=1.0)
    table.row("does not", 1.1, "s", at_most=1.0)
    table.require("neither", False)
    assert table.exceeded == ["does not", "neither"]
