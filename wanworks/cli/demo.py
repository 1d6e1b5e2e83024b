"""`make demo`: start the stack with tiny models, make two videos through the API, and stop the stack."""

import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanworks.cli import screen
from wanworks.cli.jobs.following import fetch_video
from wanworks.client.client import Client, GenerationFields, Job, succeeded, why_not
from wanworks.errors import ApiRefused, ConfigurationError, TimedOut, WanworksError
from wanworks.supervise.child import spawn
from wanworks.supervise.programs import inherited

_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0
_SIZE, _FRAMES, _FPS, _STEPS = "256x256", 17, 8, 4


def run(directory: Path) -> None:
    """Make text-to-video.mp4 and image-to-video.mp4 in `directory`. Raises WanworksError on failure."""
    home = directory / ".home"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {directory}: {error.strerror}") from None
    print("wanworks demo: three tiny models with RANDOM weights, so the videos show noise; everything else is real.")
    print("1. creating the models", flush=True)
    _make_models(home / "hub")
    print("2. starting the stack, which takes up to 20 s", flush=True)
    with _stack(home) as url, Client(url) as client:
        print(f"   ready: {url} (only while the demo runs)")
        print(
            "3. running a job from text and one from an image; their models are first downloaded from the demo's hub",
            flush=True,
        )
        image = directory / "input.png"
        image.write_bytes(_draw())
        jobs = [
            (client.generate(**_request("T2V-A14B")), directory / "text-to-video.mp4"),
            (client.generate(**_request("I2V-A14B"), image=image), directory / "image-to-video.mp4"),
        ]
        for job, path in jobs:
            print(_made(client, _finished(client, job, path.stem), path), flush=True)
        print("4. stopping", flush=True)
    print(_next(directory))


def _make_models(folder: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "workers.generation.demo_models", str(folder)],
        env=inherited(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if made.returncode != 0:
        raise WanworksError("the demo models could not be created; see the output above")


@contextmanager
def _stack(home: Path) -> Iterator[str]:
    """Run `wanworks up` on free ports, without settings from the environment, and stop it at the end."""
    env = {name: value for name, value in inherited().items() if not name.startswith("WANWORKS_")}
    options = ("--home", str(home), "--catalogue", "demo", "--port", "0", "--flower-port", "0")
    process = spawn(
        [sys.executable, "-m", "wanworks.cli.main", "up", *options],
        env=env,
        cwd=home,
        stdout=subprocess.PIPE,
        death_signal=signal.SIGTERM,  # so that it can stop its children in order
    )
    try:
        yield _ready_url(process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # its children exit with it
            process.wait()


def _ready_url(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + _READY_SECONDS
    said = b""
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.2)[0]:
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                raise WanworksError("the stack did not start; see the output above")
            said += chunk
        if found := re.search(rb"^ready (\S+)$", said, re.MULTILINE):
            return found[1].decode()
    raise TimedOut(f"the stack was not ready after {_READY_SECONDS:g} s")


def _request(model: str) -> GenerationFields:
    return {
        "model_id": model,
        "prompt": "A paper boat drifts down a rain-filled gutter",
        "resolution": _SIZE,
        "frames": _FRAMES,
        "fps": _FPS,
        "steps": _STEPS,
        "seed": 42,
    }


def _finished(client: Client, submitted: Job, label: str) -> Job:
    job = submitted
    with screen.ProgressBars() as bars:
        for job in client.progress(submitted["id"]):
            bars.show(job, label)
    if not succeeded(job):
        raise ApiRefused(why_not(job))
    return job


def _made(client: Client, job: Job, path: Path) -> str:
    fetch_video(client, job, path)
    result = job["result"]
    assert result is not None
    return f"   {path}: {result['width']}x{result['height']}, {result['frames']} frames, {result['fps']:g} fps"


def _draw() -> bytes:
    """Return an image to start from: a paper boat under a sun."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (256, 256), (135, 190, 230))
    draw = ImageDraw.Draw(image)
    draw.ellipse((170, 30, 220, 80), fill=(250, 210, 80))
    draw.rectangle((0, 180, 256, 256), fill=(40, 90, 150))
    draw.polygon([(60, 170), (190, 170), (165, 205), (85, 205)], fill=(240, 240, 235))
    draw.polygon([(125, 95), (125, 165), (75, 165)], fill=(225, 225, 220))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _next(directory: Path) -> str:
    return f"""
Done. The videos are in {directory}; the weights were random, so they show noise.

Next, an installation of your own in .wanworks:
  with the same tiny models   make up
  with the real ones          make up CATALOGUE=default   (needs a GPU; a model is downloaded with its first job)
Then:
  Live page  http://127.0.0.1:8000/
  API docs   http://127.0.0.1:8000/docs
  A job      .venv/bin/wanworks generate --home .wanworks "a paper boat" --out boat.mp4"""
