"""Copies are written whole or not at all, continued after a kill, stopped within a file, and shared between models."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import scan_cache_dir
from safetensors.torch import save_file

from shared.errors import CannotPrepare, StoreFull
from shared.models import prepared
from tests.support.models.prepared_models import cache_of, own, prepared_here, with_equal_parts
from tests.support.places import ROOT
from workers.models.fetch.partials import delete_orphans
from workers.models.preparing import converter, plan, writing
from workers.models.preparing.converter import Converter
from workers.models.preparing.writing import Written

MODEL = "TI2V-5B"


class Stop(Exception):
    """Raised by a test's check."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    own(tmp_path, MODEL)
    return tmp_path


def snapshot(models: Path, model_id: str = MODEL) -> Path:
    (found,) = (models / f"models--wanworks-demo--{model_id}" / "snapshots").iterdir()
    return found


def run(models: Path, check: Callable[[], None] = lambda: None, min_free_bytes: int = 0) -> Written:
    return writing.prepare(
        cache_of(models, MODEL), snapshot(models), "bf16", min_free_bytes, report=lambda _: None, check=check
    )


def written(models: Path) -> dict[str, int]:
    """The inodes of finished files of weights, by path."""
    found = (snapshot(models) / "prepared").rglob("*.safetensors")
    return {str(path.relative_to(snapshot(models))): path.stat().st_ino for path in found}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(models: Path) -> list[Path]:
    return list(models.rglob("*.incomplete"))


def test_the_copies_stand_in_the_snapshot_as_its_own_files_do(models: Path) -> None:
    made = run(models)
    assert [f"{copy.component} {copy.form}" for copy in made.copies] == ["text_encoder bf16", "transformer bf16"]
    sizes = {copy.component: copy.bytes for copy in made.copies}
    published = {copy.component: copy.source_bytes for copy in made.copies}
    assert all(0.4 < sizes[name] / published[name] < 0.75 for name in sizes)
    for path in written(models):
        blob = (snapshot(models) / path).resolve()
        assert blob.name == digest(blob)
        assert blob.stat().st_mode & 0o777 == 0o644
    assert leftovers(models) == []
    assert not scan_cache_dir(models).warnings
    assert run(models).copies == ()


@pytest.mark.slow
def test_the_sizes_are_known_before(models: Path) -> None:
    before = {
        (work.component, work.form): work.bytes
        for form in prepared.FORMS
        for work in plan.lacking(snapshot(models), form)
    }
    prepared_here(models, MODEL, "bf16")
    prepared_here(models, MODEL, "int8")
    for copy in prepared.copies(snapshot(models)):
        headers = sum(
            int.from_bytes((snapshot(models) / file.path).read_bytes()[:8], "little") + 8 for file in copy.files
        )
        assert before[copy.component, copy.form] == pytest.approx(copy.bytes - headers, rel=0.01)


def test_a_killed_attempt_keeps_its_finished_files(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is killed while it writes its third file; the next attempt writes that one and those after it."""
    convert, count = Converter.convert, 0

    def killed(self: Converter, task: dict[str, str], report: object, check: Callable[[], None]) -> tuple[int, str]:
        nonlocal count
        count += 1

        def once() -> None:
            if count == 3 and Path(task["target"]).exists() and self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
            check()

        if count == 3:
            place = Path(task["target"])
            monkeypatch.setattr(converter, "_CHECK_SECONDS", 0.0)
            os.mkfifo(place.with_suffix(".never"))  # the source never delivers, so that the kill hits the writing
            task = {**task, "source": str(place.with_suffix(".never"))}
            place.touch()
        return convert(self, task, report, once)  # type: ignore[arg-type]

    monkeypatch.setattr(Converter, "convert", killed)
    with pytest.raises(CannotPrepare, match="-9"):
        run(models)
    kept = written(models)
    assert len(kept) == 2
    assert leftovers(models) == []
    assert prepared.find(snapshot(models), "transformer", "bf16") is None
    monkeypatch.undo()
    run(models)
    after = written(models)
    assert len(after) > len(kept)
    assert {path: after[path] for path in kept} == kept
    assert prepared.find(snapshot(models), "transformer", "bf16") is not None


def test_a_stop_takes_effect_within_a_file(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child waits for ever in the middle of a file, and the check raises."""
    convert, pids = Converter.convert, []

    def endless(self: Converter, task: dict[str, str], report: object, check: Callable[[], None]) -> tuple[int, str]:
        pipe = models / "endless"
        os.mkfifo(pipe)

        def stopped() -> None:
            if self.pid is not None:
                pids.append(self.pid)
                raise Stop

        return convert(self, {**task, "source": str(pipe)}, report, stopped)  # type: ignore[arg-type]

    monkeypatch.setattr(Converter, "convert", endless)
    with pytest.raises(Stop):
        run(models)
    assert not Path(f"/proc/{pids[0]}").exists()
    assert leftovers(models) == []


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_is_not_as_it_was_written_gets_no_name(
    models: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    convert, count = Converter.convert, 0

    def flipped(self: Converter, task: dict[str, str], report: object, check: object) -> tuple[int, str]:
        nonlocal count
        count += 1
        found = convert(self, task, report, check)  # type: ignore[arg-type]
        if count <= times:
            place = Path(task["target"])
            content = bytearray(place.read_bytes())
            content[-1] ^= 1
            place.write_bytes(content)
        return found

    monkeypatch.setattr(Converter, "convert", flipped)
    if times == 1:
        assert run(models).copies
        assert all(
            (snapshot(models) / path).resolve().name == digest(snapshot(models) / path) for path in written(models)
        )
    else:
        with pytest.raises(CannotPrepare, match="twice"):
            run(models)
        assert written(models) == {}
    assert leftovers(models) == []


def test_a_full_disk_is_said_before_the_first_byte(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "free_bytes", lambda _: 1_000_000)
    with pytest.raises(StoreFull, match=r"copy of .*text_encoder needs"):
        run(models, min_free_bytes=900_000)
    assert written(models) == {}


def test_a_node_without_the_libraries_says_so(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter, "is_possible", lambda: False)
    with pytest.raises(CannotPrepare, match="not installed"):
        run(models)


def test_weights_that_are_loaded_as_published_have_no_copy(models: Path) -> None:
    """What is published in 16 bits needs none: here the copy itself."""
    run(models)
    copy = prepared.find(snapshot(models), "text_encoder", "bf16")
    assert copy is not None
    (published,) = prepared.weights(snapshot(models), "text_encoder")
    place = snapshot(models) / published
    place.unlink()
    shutil.copyfile(snapshot(models) / copy.files[0].path, place)
    shutil.rmtree(snapshot(models) / "prepared")
    assert [work.component for work in plan.lacking(snapshot(models), "bf16")] == ["transformer"]


def test_models_share_the_copy_of_an_equal_text_encoder(tmp_path: Path) -> None:
    _, other = with_equal_parts(tmp_path)
    prepared_here(tmp_path, "T2V-A14B")
    made = prepared_here(tmp_path, "I2V-A14B")
    one = prepared.find(snapshot(tmp_path, "T2V-A14B"), "text_encoder", "bf16")
    two = prepared.find(other, "text_encoder", "bf16")
    assert one is not None
    assert two is not None
    assert one.key == two.key
    assert made.bytes_shared == two.bytes
    for file, same in zip(one.files, two.files, strict=True):
        assert os.path.samefile(snapshot(tmp_path, "T2V-A14B") / file.path, other / same.path)


@pytest.mark.slow
def test_a_damaged_copy_is_not_shared(tmp_path: Path) -> None:
    _, other = with_equal_parts(tmp_path)
    prepared_here(tmp_path, "T2V-A14B")
    one = prepared.find(snapshot(tmp_path, "T2V-A14B"), "text_encoder", "bf16")
    assert one is not None
    blob = (snapshot(tmp_path, "T2V-A14B") / one.files[0].path).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    made = prepared_here(tmp_path, "I2V-A14B")
    two = prepared.find(other, "text_encoder", "bf16")
    assert two is not None
    assert made.bytes_shared == 0
    assert digest(other / two.files[0].path) == two.files[0].sha256


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The child's own memory, without pages of the mapped source, which the system takes back."""
    tensor = torch.zeros(1 << 23)
    source, target = tmp_path / "source.safetensors", tmp_path / "target.safetensors"
    save_file({f"layer.{number}.weight": tensor.clone() for number in range(12)}, source)
    task = {"component": "text_encoder", "form": "bf16", "config": "", "source": str(source), "target": str(target)}
    sizes: list[int] = []
    with Converter() as child:

        def report(_: int) -> None:
            status = Path(f"/proc/{child.pid}/status").read_text()
            (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
            sizes.append(int(line.split()[1]) // 1000)

        size, sha256 = child.convert(task, report, lambda: None)
    assert size == target.stat().st_size
    assert digest(target) == sha256
    assert size > 12 * 2 * tensor.numel()
    assert max(sizes) - min(sizes) < 100, f"MB: {sizes}"


def test_a_partial_file_is_locked_while_it_is_written(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleanups and cancelled downloads remove partial files whose lock they get."""
    convert, seen = Converter.convert, []

    def watched(self: Converter, task: dict[str, str], report: object, check: object) -> tuple[int, str]:
        found = convert(self, task, report, check)  # type: ignore[arg-type]
        seen.append(delete_orphans(models, []))
        return found

    monkeypatch.setattr(Converter, "convert", watched)
    assert run(models).copies
    assert set(seen) == {0}


def test_a_process_that_writes_copies_loads_libraries_of_models_only_to_quantize() -> None:
    program = (
        "import sys, workers.generation.pipelines.weights.preparing\n"
        "print(sorted({'diffusers', 'torchao', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
