"""The package that applications install: `wanworks/` alone, in an environment that holds nothing else of ours."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.places import ROOT
from tests.support.stack import Stack
from wanworks.errors import ExitCode

Run = Callable[..., "subprocess.CompletedProcess[str]"]

_SCRIPT = """
import sys
from pathlib import Path

from wanworks import ApiRefused, Client, Job, succeeded, video_of

with Client(sys.argv[1]) as client:
    try:
        client.generate(model_id="T2V-A14B", prompt="a boat", fps=23)
    except ApiRefused as error:
        assert error.status == 422, error
    job: Job = client.generate(model_id="T2V-A14B", prompt="a boat", resolution="64x64", frames=9, steps=2)
    for job in client.progress(job["id"]):
        pass
    assert succeeded(job), job
    video = video_of(job)
    assert video is not None
    client.download(video, Path("boat.mp4"))
print(job["id"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "wanworks", source / "wanworks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, timeout=120)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of a fresh environment in a folder of its own, with nothing of ours in its variables."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run([str(environment / "bin" / "python"), *install], check=True, timeout=300)

    def run(program: str, *words: str) -> "subprocess.CompletedProcess[str]":
        variables = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
        command = [str(environment / "bin" / program), *words]
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)

    return run


@pytest.mark.slow  # builds it
def test_it_holds_one_package_and_asks_for_little(wheel: Path, run: Run) -> None:
    with zipfile.ZipFile(wheel) as file:
        assert {name.partition("/")[0].partition("-")[0] for name in file.namelist()} == {"wanworks"}
        assert "wanworks/py.typed" in file.namelist()
    listed = run("python", "-m", "pip", "list", "--format=freeze").stdout.lower()
    for heavy in ("celery", "torch", "redis", "sqlalchemy", "starlette", "diffusers"):
        assert heavy not in listed
    assert run("python", "-c", "import shared").returncode != 0


@pytest.mark.slow
def test_a_job_by_the_client(run: Run, stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    done = run("python", str(script), stack.url)
    assert done.returncode == 0, done.stderr
    assert stack.job(done.stdout.strip())["status"] == "succeeded"


@pytest.mark.slow
def test_a_job_by_the_commands(run: Run, stack: Stack, tmp_path: Path) -> None:
    video = tmp_path / "boat.mp4"
    size = ("--resolution", "64x64", "--frames", "9", "--steps", "2")
    made = run("wanworks", "generate", "a boat", *size, "--out", str(video), "--url", stack.url)
    assert made.returncode == ExitCode.OK, made.stderr
    assert video.stat().st_size > 0
    for words in (("jobs",), ("models",), ("workers",), ("nodes",), ("alerts",)):
        shown = run("wanworks", *words, "--url", stack.url)
        assert shown.returncode == ExitCode.OK, (words, shown.stderr)
    batch = tmp_path / "batch.jsonl"
    batch.write_text('{"model_id": "T2V-A14B", "prompt": "a boat", "fps": "many"}\n')
    judged = run("wanworks", "generate", "--batch", str(batch), "--out", str(tmp_path), "--url", stack.url)
    assert judged.returncode == ExitCode.USAGE
    assert "line 1: fps:" in judged.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [("up",), ("worker",), ("keys", "list"), ("migrate",), ("settings",), ("audit",)])
def test_what_needs_the_server_says_how_to_get_it(run: Run, words: tuple[str, ...]) -> None:
    refused = run("wanworks", *words)
    assert refused.returncode == ExitCode.USAGE
    assert "clone the repository" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_programs_that_use_it_are_checked_by_its_types(run: Run, wheel: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    source = _SCRIPT + "client.generate(prompt=3)\n"
    script.write_text(source)
    wrong = f"script.py:{len(source.splitlines())}"
    environment = run("python", "-c", "import sys; print(sys.executable)").stdout.strip()
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", environment, "--config-file=", str(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert checked.returncode == 1
    assert wrong in checked.stdout, checked.stdout
    assert checked.stdout.count(": error:") == checked.stdout.count(wrong), checked.stdout
