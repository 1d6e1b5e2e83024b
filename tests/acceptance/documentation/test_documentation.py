"""The documentation does what it says: each command and program on its pages, run from top to bottom."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import RedisServer, free_port, lacking
from tests.support.places import ROOT
from tests.support.stack import Stack, wait_for

DOCS = ROOT / "docs"


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(language, code) of the page's fenced blocks."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in found if not languages or language in languages]


def as_read(script: str, cwd: Path, *, seconds: float = 150, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs it all in one shell, and leaves nothing running."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("WANWORKS_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    known |= {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(cwd), **environment}
    process = subprocess.Popen(
        ["bash", "-c", "set -euo pipefail\ntrap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n" + script],
        cwd=cwd, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        _end(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _end(process: "subprocess.Popen[str]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        if number == signal.SIGTERM:
            wait_for(lambda: not _alive(process.pid), 30)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def in_one_script(page: Path) -> str:
    return "\n".join(
        code if language in ("bash", "sh") else f"python - <<'END_OF_PROGRAM'\n{code}END_OF_PROGRAM"
        for language, code in blocks(page, "bash", "sh", "python")
    )


def test_the_api_guide(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        lacking("no jq on PATH")
    done = as_read(in_one_script(DOCS / "api.md").replace("http://127.0.0.1:8000", stack.url), tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    for name in ("boat.mp4", "shared.mp4", "from-python.mp4"):
        assert (tmp_path / name).read_bytes()[4:8] == b"ftyp", name
    assert (tmp_path / "start.bin").stat().st_size == 1024
    assert (tmp_path / "key.curl").stat().st_mode & 0o077 == 0
    assert '{"loc":["body","colour"],"msg":"there is no such field"}' in done.stdout
    assert "4 steps: succeeded" in done.stdout
    assert "40 is not supported by T2V-A14B-Lightning, which fixes it; allowed: 4" in done.stdout
    assert '{"seed":7,"jobs":2,"in_a_batch":true}' in done.stdout
    assert "no_preview: The job is succeeded" in done.stdout
    assert '{"name":"boats of paper","videos":1}' in done.stdout
    assert '{"total":1,"prompt":"A paper boat drifts down a gutter"}' in done.stdout
    assert '"name":"old-film","scale":0.8' in done.stdout
    assert '{"name":"old-film","shared":true,"rank":4}' in done.stdout
    assert re.search(r"^metrics_update \d+ queued$", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_page_of_the_videos(stack: Stack, tmp_path: Path) -> None:
    done = as_read(in_one_script(DOCS / "videos.md").replace("http://127.0.0.1:8000", stack.url), tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"error": {' not in done.stdout
    assert (tmp_path / "sheet.jpg").read_bytes()[:2] == b"\xff\xd8"
    for name in ("video.mp4", "boat.mp4"):
        assert (tmp_path / name).read_bytes()[4:8] == b"ftyp", name
    assert "completed\n" in done.stdout


@pytest.mark.slow
def test_the_page_of_the_speed_tiers(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("jq") is None or shutil.which("g++") is None:
        lacking("no jq or no C++ compiler")
    script = "\n".join(code for _, code in blocks(DOCS / "tiers.md", "sh"))
    done = as_read(script, tmp_path, seconds=280, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "boat.mp4").read_bytes()[4:8] == b"ftyp"
    assert '{"tier":"balanced","quality":"not measured","used":{"attention":"native","compiled":true' in done.stdout
    assert re.search(r"^balanced .* close *$", done.stdout, re.MULTILINE)
    assert '"tier":"fast","measured":[{' in done.stdout


@pytest.mark.slow
def test_the_page_of_the_gangs(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        lacking("no jq on PATH")
    script = "\n".join(code for _, code in blocks(DOCS / "gangs.md", "sh"))
    done = as_read(script, tmp_path, seconds=200, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "boat.mp4").read_bytes()[4:8] == b"ftyp"
    assert '{"devices":2,"gang":["here/' in done.stdout
    assert '"manifest":2}' in done.stdout
    assert "8 is not supported by T2V-A14B; allowed: 1, 2, 4" in done.stdout


@pytest.mark.slow
def test_the_page_of_the_queue(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        lacking("no jq on PATH")
    script = "\n".join(code for _, code in blocks(DOCS / "queue.md", "sh"))
    done = as_read(script, tmp_path, seconds=200, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "paused: everything until " in done.stdout
    assert ", by local: a new cooler" in done.stdout
    assert "nothing is paused" in done.stdout
    assert '["model_id","TI2V-5B"]' in done.stdout
    assert '"paused":1}' in done.stdout
    assert '{"pauses":[]}' in done.stdout
    assert 'queued\n"start_time"' in done.stdout
    assert "is before all others" in done.stdout


@pytest.mark.slow
def test_the_page_of_the_command_line(stack: Stack, tmp_path: Path) -> None:
    script = "\n".join(code for _, code in blocks(DOCS / "command-line.md", "sh"))
    home = str(stack.home)
    done = as_read(script, tmp_path, seconds=250, WANWORKS_URL=stack.url, WANWORKS_HOME=home, WANWORKS_CATALOGUE="demo")
    assert done.returncode == 0, done.stderr + done.stdout
    for name in ("boat.mp4", "kite.mp4"):
        assert (tmp_path / name).read_bytes()[4:8] == b"ftyp", name
    assert (tmp_path / "kite.json").read_text().startswith("{")
    assert " deleted\n" in done.stdout
    assert re.search(r"^ok +redis ", done.stdout, re.MULTILINE)
    assert re.search(r"^ok +port .*in use by the stack that runs on this home", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_page_of_the_loras(stack: Stack, tmp_path: Path) -> None:
    done = as_read(in_one_script(DOCS / "loras.md"), tmp_path, seconds=250, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "boat.mp4").read_bytes()[4:8] == b"ftyp"
    assert '"name":"kodak"' in (tmp_path / "kodak.json").read_text().replace(" ", "")
    assert '"lora_files"' not in (tmp_path / "job.json").read_text()
    assert '"status":"queued"' in (tmp_path / "job.json").read_text().replace(" ", "")
    assert re.search(r"^film-grain +all experts +4 ", done.stdout, re.MULTILINE)
    assert "kodak was removed" in done.stdout


@pytest.mark.slow
def test_the_page_of_the_flows(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        lacking("no jq on PATH")
    done = as_read(in_one_script(DOCS / "flows.md"), tmp_path, seconds=250, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert re.search(r"^ +shot-\d: held \(waits for shot-\d\)$", done.stdout, re.MULTILINE)
    assert "      shot-3: succeeded" in done.stdout
    assert '{"state":"succeeded","progress_percent":100,"done":3}' in done.stdout.replace("100.0", "100")
    assert Image.open(tmp_path / "last.png").size == (64, 64)
    assert "body.jobs.0.depends_on.0: the jobs depend on one another in a circle: a -> b -> a" in done.stdout
    assert "body.jobs.1.params.steps: " in done.stdout
    assert " is cancelled" in done.stdout
    assert done.stdout.rstrip().endswith("succeeded")


@pytest.mark.slow
def test_the_page_of_the_batches(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        lacking("no jq on PATH")
    script = "\n".join(code for _, code in blocks(DOCS / "batches.md", "sh"))
    done = as_read(script, tmp_path, seconds=200, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert '{"name":"boats","total":2,"jobs":2}' in done.stdout
    assert '["body","jobs",0,"params","frames"]' in done.stdout
    assert '{"queued":0,"running":0,"succeeded":2,"failed":0,"cancelled":0}' in done.stdout
    assert "['succeeded', 'succeeded']" in done.stdout
    assert "2 jobs match" in done.stdout
    assert '{"matched":2,"would_change":2,"ids":2}' in done.stdout
    assert "2 of 2 jobs deleted" in done.stdout


@pytest.mark.slow
def test_the_page_of_the_gallery(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        lacking("no jq on PATH")
    script = "\n".join(code for _, code in blocks(DOCS / "gallery.md", "sh"))
    done = as_read(script, tmp_path, seconds=200, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert '{"total":1,"favourite":true,"collections":1}' in done.stdout
    assert "is a favourite" in done.stdout
    assert "boats: 1 videos" in done.stdout
    assert "boats is deleted; its 1 videos are not" in done.stdout
    for name in ("boats.zip", "one.zip"):
        assert (tmp_path / name).read_bytes()[:2] == b"PK", name


@pytest.mark.slow
def test_the_page_of_pictures_seeds_and_previews(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        lacking("no jq on PATH")
    Image.new("RGB", (200, 50), (200, 30, 30)).save(tmp_path / "first.png")
    Image.new("RGB", (64, 64), (30, 30, 200)).save(tmp_path / "last.png")
    script = "\n".join(code for _, code in blocks(DOCS / "generations.md", "sh"))
    done = as_read(script, tmp_path, seconds=280, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert '{"last_image":true,"fit":"contain","resolution":"64x64"}' in done.stdout
    assert '{"fit":"auto","resolution":"128x32"}' in done.stdout
    assert '{"jobs":3,"seed":7}' in done.stdout
    assert '{"total":3}' in done.stdout
    assert "no_preview" in done.stdout
    for name in ("ends.mp4", "boat-1.mp4", "boat-2.mp4"):
        assert (tmp_path / name).read_bytes()[4:8] == b"ftyp", name


@pytest.mark.slow
def test_the_page_of_the_client(stack: Stack, tmp_path: Path) -> None:
    (boats,) = [code for _, code in blocks(DOCS / "client.md", "json")]
    (tmp_path / "boats.jsonl").write_text(boats)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "input.png")
    done = as_read(in_one_script(DOCS / "client.md"), tmp_path, WANWORKS_URL=stack.url)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "boat.mp4").exists()
    assert (tmp_path / "take-2.mp4").exists()
    assert "422 validation_error" in done.stdout
    assert len(list((tmp_path / "boats").glob("*.mp4"))) == 2


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path, postgresql_server: str, redis_server: RedisServer) -> None:
    import psycopg

    with psycopg.connect(postgresql_server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE tutorial")
    script = in_one_script(DOCS / "tutorial.md").replace("8000", str(free_port()))
    assert script.startswith("make setup\n")
    done = as_read(
        f"cd {ROOT}\n{script}", tmp_path, seconds=280,
        DATABASE=postgresql_server.replace("/postgres?", "/tutorial?"), REDIS=redis_server.url,
        WANWORKS_FLOWER_PORT="0", WANWORKS_MIN_FREE_DISK_MB="0",
    )  # fmt: skip
    home = tmp_path / "wan"
    logs = "\n".join(file.read_text()[-800:] for file in sorted(home.glob("*.log")))
    assert done.returncode == 0, done.stderr + done.stdout[-2000:] + logs
    assert len(list((home / "shots").glob("*.mp4"))) == 6
    assert (home / "kite.mp4").read_bytes()[4:8] == b"ftyp"
    assert re.search(r"^beta\s+drained", done.stdout, re.MULTILINE)
    assert "wanworks_jobs" in done.stdout


@pytest.mark.slow
def test_the_readme_and_the_quick_start(tmp_path: Path) -> None:
    """`make demo`, `make up` and what is asked of it. `make test` is what runs this."""
    port = free_port()
    told = [code for page in (ROOT / "README.md", DOCS / "index.md") for _, code in blocks(page, "sh")]
    made = [line.split("#")[0].strip() for code in told for line in code.splitlines() if line.startswith("make")]
    assert set(made) == {"make demo", "make test", "make up"}
    asked = "\n".join(code for code in told if not code.startswith("make"))
    home, url = tmp_path / "home", f"http://127.0.0.1:{port}"
    asked = asked.replace("http://127.0.0.1:8000", url).replace(
        "share ID", "share $(wanworks jobs --type generation --json | jq -r '.data[0].id')"
    )
    asked = asked.replace("$PWD/.venv", f"{ROOT}/.venv").replace("$PWD/.wanworks", str(home))
    whole = f"""(cd {ROOT} && make demo)
        (cd {ROOT} && exec make up STACK_HOME={home} PORT={port} FLOWER_PORT=0 DEVICES=cpu:1) > up.log 2>&1 &
        until grep -q ^ready up.log; do sleep 0.2; done
        {asked}
        kill %1
        wait || true"""
    done = as_read(whole, tmp_path, seconds=280)
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    assert (tmp_path / "boat.mp4").read_bytes()[4:8] == b"ftyp"
    assert (tmp_path / "video.mp4").read_bytes()[4:8] == b"ftyp"
    assert len(re.findall(rf"^{url}/api/v1/jobs/.+signature=", done.stdout, re.MULTILINE)) == 2
    assert sorted(path.suffix for path in (ROOT / "demo").glob("*.mp4")) == [".mp4", ".mp4"]


@pytest.mark.slow
def test_the_pictures_are_made_by_a_command(tmp_path: Path) -> None:
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        lacking("no Chromium on PATH")
    argv = [sys.executable, "-m", "tests.screenshots", str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = {path.name for path in (DOCS / "images").iterdir()}
    assert kept == {path.name for path in tmp_path.iterdir()}
    assert all(Image.open(path).size == (1400, 900) for path in tmp_path.iterdir())


def test_the_pages_build_strictly(tmp_path: Path) -> None:
    # Without --quiet, which drops the warnings before they are counted.
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert not loaded, f"{page.name} loads {loaded} from another host"
