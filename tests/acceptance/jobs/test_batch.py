"""`generate --batch` on a real stack: killed half-way, run again, every line made once. And the client's page, run."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.errors import ConfigurationError
from tests.support.stack import Stack, wait_for
from wanworks.cli.batches.batch_file import read_batch
from wanworks.cli.batches.batch_record import NAME
from wanworks.errors import ExitCode

TINY = {"resolution": "64x64", "frames": 9, "steps": 2}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def started(stack: Stack, file: Path, out: Path, *words: str) -> "subprocess.Popen[str]":
    # A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C.
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    argv = [sys.executable, "-m", "wanworks.cli.main", "generate", "--batch", str(file), "--out", str(out), *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANWORKS_")}
    return subprocess.Popen(
        [sys.executable, "-c", heeding, *argv[1:]],
        env={**env, "WANWORKS_URL": stack.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(stack: Stack, file: Path, out: Path, *words: str) -> Any:
    process = started(stack, file, out, *words)
    said, told = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, said, told)


def record(out: Path) -> list[dict[str, Any]]:
    path = out / NAME
    rows = [json.loads(row) for row in path.read_text().splitlines()[1:]] if path.exists() else []
    return [row for row in rows if "sent" not in row]


def count(stack: Stack) -> int:
    return int(stack.sql("select count(*) from jobs where type = 'generation'")[0][0])


@pytest.mark.slow
def test_a_killed_batch_continues_and_makes_every_line_once(stack: Stack, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "red.png")
    asked = {"model_id": "T2V-A14B", "prompt": "a boat", **TINY}
    # The first is quick; of the second and third the kill finds one made or running, the fourth waits.
    rows = [
        {**asked, "name": "first"},
        {**asked, "steps": 60, "frames": 41, "seed": 1},
        {**asked, "steps": 60, "frames": 41, "seed": 1},  # the very same, and still another video
        {**asked, "model_id": "I2V-A14B", "image": "red.png", "name": "from an image", "output_format": "webm"},
    ]
    file, out = write(tmp_path / "boats.jsonl", *rows), tmp_path / "out"
    before = count(stack)
    process = started(stack, file, out, "--concurrency", "2")
    wait_for(lambda: (out / "first.mp4").exists() and len({row["key"] for row in record(out)}) >= 2, 90)
    second = run(stack, file, out)
    assert second.returncode == ExitCode.ALREADY_RUNNING, second.stderr
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert sum(1 for row in record(out) if row["file"]) < 4, "half-way"
    (out / NAME).open("a").write('{"key": "cut o')  # as a kill in the midst of a line leaves it
    first_made = (out / "first.mp4").stat().st_mtime_ns

    result = run(stack, file, out, "--concurrency", "2")
    assert result.returncode == 0, result.stderr
    assert "4 of 4 videos are in" in result.stderr
    assert len(result.stdout.splitlines()) == 4
    assert count(stack) - before == 4, "every line was asked for once"
    assert (out / "first.mp4").stat().st_mtime_ns == first_made, "what is whole is not fetched again"
    files = sorted(path.name for path in out.iterdir() if path.name != NAME)
    assert files[2:] == ["first.mp4", "from an image.webm"]
    assert [re.sub("-[0-9a-f]{8}", "", name) for name in files[:2]] == ["0002.mp4", "0003.mp4"]
    stack.assert_ended_once([stack.job(row["job"]) for row in record(out) if row["file"]])

    (out / "first.mp4").write_bytes(b"spoilt")
    write(file, *reversed(rows))
    result = run(stack, file, out, "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["made"], told["failed"], told["lines"][3]["file"]) == (4, 0, "first.mp4")
    assert (out / "first.mp4").read_bytes()[4:8] == b"ftyp", "and what is spoilt is"
    assert count(stack) - before == 4, "lines that were moved are the same lines"


@pytest.mark.slow
def test_failed_lines_are_reported_and_submitted_again_on_request(stack: Stack, tmp_path: Path) -> None:
    asked = {"model_id": "T2V-A14B", "prompt": "a boat", **TINY}
    file = write(tmp_path / "boats.jsonl", {**asked, "fps": 23, "name": "odd"}, "", {**asked, "name": "gone"})
    out = tmp_path / "out"
    result = run(stack, file, out)
    assert result.returncode == ExitCode.REFUSED
    assert "line 1 (odd): fps: 23 is not supported by T2V-A14B" in result.stderr
    assert "1 of 2 videos are in" in result.stderr
    (job_id,) = {row["job"] for row in record(out) if row["file"]}
    stack.request("DELETE", f"/api/v1/jobs/{job_id}")
    (out / "gone.mp4").unlink()
    result = run(stack, file, out)
    assert "2 failed" in result.stderr
    before = count(stack)
    result = run(stack, file, out, "--retry-failed")
    assert result.returncode == ExitCode.REFUSED
    assert "1 of 2 videos are in" in result.stderr
    assert (out / "gone.mp4").exists()
    assert count(stack) == before + 1


@pytest.mark.slow
def test_ctrl_c_leaves_the_jobs_and_says_so(stack: Stack, tmp_path: Path) -> None:
    row = {"model_id": "T2V-A14B", "prompt": "a boat", **TINY, "resolution": "256x256", "frames": 17, "steps": 60}
    file, out = write(tmp_path / "boats.jsonl", row), tmp_path / "out"
    process = started(stack, file, out)
    wait_for(lambda: [row for row in record(out) if row["job"]], 60)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED, told
    assert "run the same command again to continue from here" in told
    assert "Traceback" not in told
    assert run(stack, file, out).returncode == 0


def test_every_error_in_the_file_is_reported_and_nothing_submitted(tmp_path: Path) -> None:
    asked = {"model_id": "T2V-A14B", "prompt": "a boat"}
    file = write(
        tmp_path / "boats.jsonl",
        {**asked, "name": "a"},
        {**asked, "name": "a"},
        "{",
        {**asked, "frames": "nine", "colour": "red", "name": "../b"},
        {"prompt": ""},
        {**asked, "image": "none.png"},
        "[]",
    )
    with pytest.raises(ConfigurationError) as wrong:
        read_batch(file)
    told = str(wrong.value)
    for mistake in (
        "line 2: name: 'a' is already the name of line 1",
        "line 3: is not JSON",
        "line 4: frames:",
        "line 4: colour: there is no such field",
        "line 4: name: must be a file's name",
        "line 5: model_id: ",
        "line 5: prompt: ",
        "line 6: image: there is no file",
        "line 7: is not a JSON object",
    ):
        assert mistake in told
    for words, complaint in (
        (("a boat", "--batch", str(file)), "takes the request's fields from the lines"),
        (("--batch", str(file)), "--out"),
        ((), "PROMPT"),
    ):
        argv = [sys.executable, "-m", "wanworks.cli.main", "generate", *words]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == ExitCode.USAGE
        assert complaint in result.stderr
