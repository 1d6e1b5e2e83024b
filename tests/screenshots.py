"""Make the pictures of the live page in docs/images from a running demo: ``python -m tests.screenshots [FOLDER]``."""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.places import ROOT
from tests.support.stack import FAST, Stack, wait_for

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 150_000
FLAT_COLOURS = 128  # the most frequent ones: text, borders and states
VIDEO_COLOURS = 64
MODELS = ("T2V-A14B", "T2V-A14B", "TI2V-5B", "T2V-A14B-Lightning")
FINISHED = (
    "A paper boat drifts down a rain-filled gutter at dusk",
    "A lighthouse above a calm sea, seen from a drone",
    "Steam rises from a bowl of noodles on a wooden table",
    "A red kite above the beach, wide shot",
    "Snow falls on a quiet street with warm windows",
)
RUNNING = ("A sailing boat leaves the harbour in the morning fog", "Fireflies above a meadow at night")
WAITING = (
    ("A potter shapes a bowl, close up", "high"),
    ("Autumn leaves turn on the surface of a pond", "normal"),
    ("A tram climbs a steep street in the rain", "normal"),
    ("Clouds move over a mountain range, time lapse", "low"),
)


def main() -> None:
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    if browser is None:
        sys.exit(f"the pictures are made with Chromium: install one of {', '.join(names)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(tempfile.mkdtemp(prefix="wanworks-screenshots-"))
    models = folder / "models"
    subprocess.run([sys.executable, "-m", "wanworks.cli.main", "demo-models", str(models)], check=True, cwd=ROOT)
    slow = dict.fromkeys(FAST.keys() - {"WANWORKS_HUB_URL"}, "")  # the defaults: no attempt expires on a busy machine
    stack = Stack(folder / "home", models, devices="cpu:2", WANWORKS_NODE="studio", **slow)
    try:
        stack.start(seconds=300)
        wait_for(lambda: models_are_available(stack), 300, "for the models")
        make_jobs(stack)
        with sync_playwright() as playwright:
            expect.set_options(timeout=60_000)
            page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
                viewport={"width": 1400, "height": 900}, device_scale_factor=1, color_scheme="light",
                reduced_motion="reduce", locale="en-GB", timezone_id="UTC",
            )  # fmt: skip
            for name, prepare in VIEWS.items():
                take(page, stack, name, prepare, images)
    finally:
        if stack.process is not None:
            stack.stop(60)
        shutil.rmtree(folder, ignore_errors=True)


def models_are_available(stack: Stack) -> bool:
    """Tell whether the node has found its models: a job before would begin a download."""
    listed = stack.request("GET", "/api/v1/models/status/detailed").json()["models"]
    return all(listed[name]["availability_status"] == "available" for name in set(MODELS))


def make_jobs(stack: Stack) -> None:
    """Make finished videos, two that run for minutes, and some that wait for them."""
    finished = [
        submit(stack, prompt, seed=seed, model_id=MODELS[seed % len(MODELS)], resolution="96x64", frames=9)
        for seed, prompt in enumerate(FINISHED)
    ]
    stack.wait_all(finished, seconds=900)
    for job_id in finished[1::2]:
        assert stack.request("PUT", f"/api/v1/jobs/{job_id}/favourite").is_success
    running = [
        submit(stack, prompt, seed=seed, resolution="416x240", frames=81, steps=60 + 40 * seed)
        for seed, prompt in enumerate(RUNNING)
    ]
    for job_id in running:
        stack.wait_status(job_id, ("running",), 300)
    for seed, (prompt, priority) in enumerate(WAITING):
        submit(stack, prompt, seed=seed, priority=priority)
    # From here on the reported ends are steady, and with them the order and the starts of those that wait.
    wait_for(lambda: all(percent(stack, job_id) >= 5 for job_id in running), 300, "5 % of the running jobs")


def percent(stack: Stack, job_id: str) -> float:
    progress: float = stack.request("GET", f"/api/v1/jobs/{job_id}").json()["progress"]["percent"]
    return progress


def submit(stack: Stack, prompt: str, model_id: str = "T2V-A14B", **fields: object) -> str:
    body = {"model_id": model_id, "prompt": prompt, **fields}
    response = stack.request("POST", "/api/v1/jobs/generation", json=body)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


def overview(page: Page) -> None:
    expect(page.locator("#overview .health")).to_contain_text("All is well")
    expect(page.locator("#overview")).not_to_contain_text("Loading…")
    expect(page.locator("#overview .videos img, #overview a .frame img")).to_have_count(len(FINISHED))
    page.wait_for_function("() => [...document.querySelectorAll('#overview img')].every((image) => image.complete)")


def gallery(page: Page) -> None:
    expect(page.locator("#gallery [role=status]")).to_have_text(f"{len(FINISHED)} videos")
    page.wait_for_function("() => [...document.querySelectorAll('.cell img')].every((image) => image.complete)")


def jobs(page: Page) -> None:
    expect(page.locator("#jobs")).to_contain_text(WAITING[-1][0])


def new_video(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill(FINISHED[0])
    expect(page.locator(".make-bar")).to_contain_text("Starts")


VIEWS: dict[str, Callable[[Page], None]] = {
    "overview": overview, "gallery": gallery, "jobs": jobs, "new-video": new_video,
}  # fmt: skip


def take(page: Page, stack: Stack, name: str, prepare: Callable[[Page], None], images: Path) -> None:
    """Write the picture of one view."""
    page.goto("about:blank")
    page.goto(f"{stack.url}/#{'new' if name == 'new-video' else name}")
    expect(page.locator("#connection-text")).to_have_text("live")
    prepare(page)
    page.mouse.move(1399, 899)
    taken = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    path = images / f"{name}.png"
    reduced(taken).save(path, optimize=True)
    bytes_written = path.stat().st_size
    print(f"{path}: {bytes_written // 1000} kB", flush=True)
    if bytes_written > MOST_BYTES:
        sys.exit(f"{path} is larger than {MOST_BYTES} bytes")


def reduced(picture: Image.Image) -> Image.Image:
    """Return the picture in 192 colours, at half the size: those of the page as they are, the others of the videos."""
    flat = sorted(picture.getcolors(picture.width * picture.height) or [], reverse=True)[:FLAT_COLOURS]
    videos = picture.quantize(VIDEO_COLOURS, dither=Image.Dither.NONE).getpalette() or []
    palette = numpy.array([*(colour for _, colour in flat), *zip(*[iter(videos)] * 3, strict=True)], numpy.int32)
    # By hand, because Pillow finds the nearest colour of a palette roughly only.
    colours, places = numpy.unique(numpy.asarray(picture).reshape(-1, 3), axis=0, return_inverse=True)
    nearest = numpy.array([((palette - colour) ** 2).sum(axis=1).argmin() for colour in colours], numpy.uint8)
    found = Image.frombytes("P", picture.size, nearest[places.reshape(-1)].tobytes())
    found.putpalette(palette.astype(numpy.uint8).tobytes())
    return found


if __name__ == "__main__":
    main()
