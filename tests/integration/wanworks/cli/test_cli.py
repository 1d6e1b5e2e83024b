"""The `wanworks` command as users and scripts run it: its output and exit codes."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from tests.support.places import ROOT
from tests.support.stack import Stack, command_line, wait_for
from wanworks.client.client import Client
from wanworks.errors import ExitCode
from wanworks.supervise.child import started_ticks
from wanworks.supervise.locks import hold_home


def wanworks(*words: str, home: Path | None = None, seconds: float = 60, cwd: Path | None = None, **extra: str) -> Any:
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANWORKS_")}
    if home is not None:
        env["WANWORKS_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "wanworks.cli.main", *words],
        env={**env, **extra},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=cwd,
    )


def terminal_of(*words: str, columns: int = 80) -> tuple["subprocess.Popen[bytes]", int]:
    """Starts the command on a terminal, whose other side is returned."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("WANWORKS_", "COLUMNS"))}

    process = subprocess.Popen(
        [sys.executable, "-m", "wanworks.cli.main", *words], env={**env, "TERM": "xterm"}, stdin=theirs, stdout=theirs,
        stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_until(terminal: int, words: str | None, seconds: float = 60) -> str:
    """What the terminal shows until these words come, or until the command has ended; without colours."""
    said = b""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (words is None or words.encode() not in said):
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                said += os.read(terminal, 65536)
            except OSError:  # the other side of the terminal is closed
                break
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()).replace("\r\n", "\n")


def on_a_terminal(*words: str, columns: int = 80) -> str:
    process, terminal = terminal_of(*words, columns=columns)
    said = read_until(terminal, None)
    os.close(terminal)
    assert process.wait(10) == 0, said
    return said


def refused(result: Any, code: ExitCode, words: str) -> None:
    """One readable line, no traceback, and the documented exit code."""
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_help_names_every_exit_code():
    text = " ".join(wanworks("--help").stdout.split())

    assert all(f"{int(code)} {code.meaning}" in text for code in ExitCode)


def test_settings_are_printed_with_their_secrets_masked():
    result = wanworks("settings", "--json", WANWORKS_REDIS_URL="redis://:hush@nowhere:1/0", WANWORKS_PORT="8123")
    rows = {row["variable"]: row for row in json.loads(result.stdout)}

    assert rows["WANWORKS_PORT"]["value"] == 8123
    assert rows["WANWORKS_REDIS_URL"]["value"] == "********"
    assert rows["WANWORKS_DATABASE_URL"]["value"] is None
    assert all(row["help"] for row in rows.values())
    assert "hush" not in wanworks("settings", WANWORKS_REDIS_URL="redis://:hush@nowhere:1/0").stdout


def test_nothing_running_differs_from_a_refusal(tmp_path):
    refused(wanworks("jobs", home=tmp_path), ExitCode.UNREACHABLE, "start `wanworks up`, name another home")
    refused(wanworks("jobs", "--url", "http://127.0.0.1:1"), ExitCode.UNREACHABLE, "cannot be reached")
    status = wanworks("status", "--json", home=tmp_path)
    assert status.returncode == ExitCode.UNREACHABLE
    assert json.loads(status.stdout)["running"] is False


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("up", "--only", "gpu,ghost"), "'ghost' is not one of web, gpu, io, dispatcher, beat, flower, hub, redis"),
        (("up", "--devices", "cpu:none"), "cpu:none"),
        (("up", "--node", "a b"), "WANWORKS_NODE"),
        (("up", "--only", "gpu,io"), "WANWORKS_REDIS_URL is not set"),
        (("up", "--catalogue", "/no/such/file.toml"), "/no/such/file.toml"),
        (("jobs", "--limit", "0"), "--limit"),
    ],
)
def test_a_wrong_option_or_setting_ends_with_2(tmp_path, words, complaint):
    refused(wanworks(*words, *(("--port", "0", "--flower-port", "0") if words[0] == "up" else ()), home=tmp_path),
            ExitCode.USAGE, complaint)  # fmt: skip


def test_a_bad_catalogue_file_is_refused_with_its_line(tmp_path):
    file = tmp_path / "models.toml"
    file.write_text('[models.mine]\nextends = "T2V-A14B"\nmax_frames = "many"\n')

    refused(wanworks("up", "--catalogue", str(file), home=tmp_path), ExitCode.USAGE, "line 3")


def test_an_unreachable_database_is_reported_before_anything_starts(tmp_path):
    result = wanworks(
        "up", "--port", "0", "--flower-port", "0", home=tmp_path,
        WANWORKS_DATABASE_URL="postgresql+psycopg://nobody:hush@127.0.0.1:1/none",
        WANWORKS_REDIS_URL="redis://127.0.0.1:1/0",
    )  # fmt: skip

    refused(result, ExitCode.UNREACHABLE, "database")
    assert "hush" not in result.stderr + result.stdout


def test_a_taken_port_and_a_held_home_are_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = wanworks("up", "--port", str(port), home=tmp_path)
    refused(result, ExitCode.ALREADY_RUNNING, f"port {port} on 127.0.0.1 is in use; choose another: `make up PORT=")
    free = re.search(r"`wanworks up --port (\d+)`, or set WANWORKS_PORT=(\d+)", result.stderr)
    assert free is not None
    assert int(free[1]) == int(free[2]) > port

    held = hold_home(tmp_path, "beat")
    try:
        refused(wanworks("beat", home=tmp_path), ExitCode.ALREADY_RUNNING, "'beat' is already running on the home")
    finally:
        os.close(held)


@pytest.mark.parametrize("events", [(503, ""), (200, 'event: progress\ndata: {"percent": 40.0, "phase": "denois')])
def test_following_continues_without_the_event_stream(events):
    """The stream is refused, or breaks off in the middle of an event: the client asks instead."""
    progress = {"percent": 0.0, "phase": "loading", "step": None, "steps": None, "eta_seconds": None}
    answers = iter(
        [{"id": "a", "status": status, "progress": progress} for status in ("running", "running", "succeeded")]
    )

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = events if self.path.endswith("/events") else (200, json.dumps(next(answers)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            seen = [job["status"] for job in client.progress("a", timeout=20)]
        server.shutdown()

    assert seen == ["running", "running", "succeeded"]


@pytest.fixture(scope="module")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("cli") / "home", demo_models)
    stack.start()
    stack.wait_running()
    yield stack
    stack.kill()


def test_status_names_every_process_and_address(stack):
    shown = json.loads(wanworks("status", "--json", home=stack.home).stdout)

    assert [process["name"] for process in shown["processes"]] == [
        "web", "gpu-0", "io", "dispatcher", "beat", "flower", "redis",
    ]  # fmt: skip
    assert {process["state"] for process in shown["processes"]} == {"running"}
    assert shown["devices"] == {"gpu-0": "cpu:0"}
    table = wanworks("status", home=stack.home, TZ="Asia/Kolkata").stdout
    assert re.search(r"^gpu-0 +cpu:0 +\d+ +running +0 +\S+ \S+ IST", table, re.MULTILINE), table
    assert shown["api_url"] == stack.url
    assert shown["database_url"] == f"sqlite:///{stack.home / 'wanworks.db'}"
    assert shown["redis_url"].startswith("redis://:")
    assert (stack.home / "run" / "state.json").stat().st_mode & 0o777 == 0o600


def test_no_secret_is_on_any_command_line(stack):
    password = (stack.home / "redis-password").read_text().strip()
    flower = (stack.home / "flower-password").read_text().strip()
    lines = " ".join(command_line(pid) for pid in stack.processes())

    assert "workers.app" in lines
    assert password not in lines
    assert flower not in lines


def test_flower_asks_for_its_password(stack):
    assert stack.flower("/api/tasks").status_code == 200
    assert httpx.get(f"{stack.state()['flower_url']}/api/tasks").status_code == 401


def test_a_second_start_on_the_same_home_or_device_is_refused(stack, tmp_path):
    refused(
        wanworks("up", "--home", str(stack.home), "--port", "0"),
        ExitCode.ALREADY_RUNNING,
        f"'up' is already running on the home {stack.home}, at {stack.url}; end it with Ctrl-C or `kill "
        f"{stack.state()['pid']}`",
    )
    same_node_elsewhere = wanworks(
        "up", "--only", "gpu", "--node", "here", "--devices", "cpu:1", home=tmp_path,
        WANWORKS_REDIS_URL=stack.state()["redis_url"],
        WANWORKS_DATABASE_URL=stack.state()["database_url"],
        WANWORKS_STORE_PATH=str(stack.home / "store"),
    )  # fmt: skip
    refused(same_node_elsewhere, ExitCode.ALREADY_RUNNING, "cpu:0 of node here already has a worker on this host")


def test_a_command_that_finds_no_stack_names_the_one_beside_it(stack, tmp_path):
    (tmp_path / ".wanworks").symlink_to(stack.home)
    elsewhere = tmp_path / "nothing"
    refused(wanworks("jobs", home=elsewhere), ExitCode.UNREACHABLE, "name another home with --home or WANWORKS_HOME")
    refused(
        wanworks("jobs", home=elsewhere, cwd=tmp_path, PYTHONPATH=str(ROOT)),
        ExitCode.UNREACHABLE,
        f"no stack runs on the home {elsewhere}: one runs on the home .wanworks; give --home .wanworks",
    )
    assert wanworks("jobs", "--home", ".wanworks", cwd=tmp_path, PYTHONPATH=str(ROOT)).returncode == 0


def test_a_job_without_files_is_told_apart(stack):
    answer = stack.request("POST", "/api/v1/jobs/integrity-check", json={"model_id": "all", "node": "here"})
    check = answer.json()
    stack.wait_status(check["id"])
    refused(wanworks("share", check["id"], home=stack.home), ExitCode.USAGE, "is an integrity check and has no video")
    refused(
        wanworks("fetch", check["id"], home=stack.home), ExitCode.REFUSED, "`wanworks jobs --type generation` lists"
    )
    nothing = wanworks("fetch", check["id"], "--file", "video.mp4", home=stack.home)
    refused(nothing, ExitCode.USAGE, "has no such file; it has: none")


def test_generate_waits_fetches_and_reports(stack, tmp_path):
    video = tmp_path / "boat.webm"
    words = ("--resolution", "64x64", "--frames", "9", "--steps", "2", "--seed", "7", "--out", str(video))
    result = wanworks("generate", "a paper boat", *words, "--json", home=stack.home)

    assert result.returncode == 0, result.stderr
    job = json.loads(result.stdout)
    assert job["status"] == "succeeded"
    assert job["params"]["output_format"] == "webm"
    assert job["result"]["seed"] == 7
    assert video.read_bytes()[:4] == b"\x1aE\xdf\xa3"
    assert "succeeded" in result.stderr  # off a terminal, progress is told in lines
    shown = wanworks("job", job["id"], home=stack.home)
    assert "64x64, 9 frames, 16 fps, seed 7" in shown.stdout or "64x64, 9 frames, 8 fps, seed 7" in shown.stdout
    listed = json.loads(wanworks("jobs", "--json", "--limit", "1", home=stack.home).stdout)
    assert listed["data"][0]["id"] == job["id"]
    assert "gpu-0@here" in wanworks("workers", home=stack.home).stdout
    refused(wanworks("cancel", job["id"], home=stack.home), ExitCode.REFUSED, "already succeeded")
    shared = wanworks("share", job["id"], "--seconds", "60", home=stack.home)
    assert httpx.get(shared.stdout.strip()).content == video.read_bytes()
    assert "it needs no key, and is valid until " in shared.stderr
    assert "works on this host only" in shared.stderr
    assert "wanworks share" not in result.stderr, "no hints off a terminal"
    refused(
        wanworks("share", job["id"], "--file", "nothing.mp4", home=stack.home),
        ExitCode.USAGE,
        "has no such file; it has: video.webm",
    )


def test_a_terminal_says_how_to_share_and_lists_each_job_in_one_line(stack, tmp_path):
    long = "a paper boat that drifts down a rain-filled gutter in soft light, " * 4
    words = ("--resolution", "64x64", "--frames", "9", "--steps", "2", "--out", str(tmp_path / "boat.mp4"))
    said = on_a_terminal("generate", long, *words, "--home", str(stack.home))
    short = re.search(rf"^share it: wanworks share --home {stack.home} (\w+-\w+)$", said, re.MULTILINE)
    assert short is not None, said
    assert wanworks("share", short[1], home=stack.home).returncode == 0

    stack.wait_status(stack.request("POST", "/api/v1/jobs/integrity-check", json={"node": "here"}).json()["id"])
    lines = on_a_terminal("jobs", "--limit", "2", "--home", str(stack.home)).splitlines()
    assert lines[0].split() == ["id", "status", "model", "took", "created", "what"]
    assert all(len(line) <= 80 for line in lines[:3])
    assert "  Integrity check of all " in lines[1]
    assert lines[2].startswith(f"{short[1]}  succeeded  ")
    assert "  a paper boat" in lines[2]
    assert lines[2].rstrip().endswith("…")


def test_a_start_and_a_stop_on_a_terminal_say_so(tmp_path):
    process, terminal = terminal_of("up", "--only", "redis", "--home", str(tmp_path / "home"))
    said = read_until(terminal, "\nready ")
    process.send_signal(signal.SIGINT)
    said += read_until(terminal, "wanworks: stopped")
    process.wait(30)
    os.close(terminal)
    assert said.index("wanworks: starting on the home ") < said.index("\nready ")
    assert said.index("\nready ") < said.index("wanworks: stopping") < said.index("wanworks: stopped")
    assert process.returncode == 0


def test_generate_from_an_image(stack, tmp_path):
    from PIL import Image

    picture, video = tmp_path / "in.png", tmp_path / "out.mp4"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(picture)
    words = ("--resolution", "64x64", "--frames", "9", "--steps", "2", "--image", str(picture), "--out", str(video))
    result = wanworks("generate", "a red square", *words, home=stack.home)

    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(video)
    assert video.read_bytes()[4:8] == b"ftyp"


def test_generate_several_seeds_from_first_and_last_pictures(stack, tmp_path):
    from PIL import Image

    first, last = tmp_path / "first.png", tmp_path / "last.png"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(first)
    Image.new("RGB", (64, 64), (30, 30, 200)).save(last)
    pictures = ("--image", str(first), "--last-image", str(last), "--fit", "contain")
    words = ("--resolution", "64x64", "--frames", "9", "--steps", "2", "--seed", "7", "--count", "2", *pictures)
    result = wanworks("generate", "it turns blue", *words, "--out", str(tmp_path / "it.mp4"), home=stack.home)

    assert result.returncode == 0, result.stderr
    videos = [tmp_path / "it-1.mp4", tmp_path / "it-2.mp4"]
    assert result.stdout.split() == [str(video) for video in videos]
    assert videos[0].read_bytes() != videos[1].read_bytes()
    dry = wanworks("generate", "it turns blue", *words, "--dry-run", "--json", home=stack.home)
    assert json.loads(dry.stdout)["count"] == 2


def test_several_that_run_out_of_time_end_with_the_worst_exit_code(stack):
    words = ("--resolution", "256x256", "--frames", "81", "--steps", "100", "--count", "2")
    result = wanworks("generate", "a boat", *words, "--timeout", "0.5", "--json", home=stack.home)
    assert result.returncode == ExitCode.TIMED_OUT, result.stderr
    ended = json.loads(result.stdout)
    assert len(ended) == 2
    assert all("the job continues" in one["failure"] for one in ended)
    for one in ended:
        assert wanworks("cancel", one["id"], home=stack.home).returncode == 0


def test_what_the_api_refuses_is_one_line_that_names_the_field(stack):
    result = wanworks("generate", "a boat", "--fps", "23", "--frames", "7", home=stack.home)

    refused(result, ExitCode.REFUSED, "fps: 23 is not supported by T2V-A14B")
    assert "frames: 7" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_timeout_leaves_the_job_running_and_cancel_ends_it(stack):
    words = ("--resolution", "256x256", "--frames", "81", "--steps", "100")
    result = wanworks("generate", "a boat", *words, "--timeout", "0.5", home=stack.home)
    refused(result, ExitCode.TIMED_OUT, "the job continues")
    job_id = json.loads(wanworks("jobs", "--json", "--limit", "1", home=stack.home).stdout)["data"][0]["id"]

    assert wanworks("cancel", job_id, home=stack.home).returncode == 0
    assert wait_for(lambda: wanworks("job", job_id, home=stack.home).returncode == ExitCode.REFUSED, 30)


@pytest.mark.slow
def test_a_second_node_must_see_the_store_and_then_joins(stack, tmp_path):
    state = stack.state()
    given = {
        "WANWORKS_REDIS_URL": state["redis_url"],
        "WANWORKS_DATABASE_URL": state["database_url"],
        "WANWORKS_CATALOGUE": "demo",
    }
    words = ("up", "--only", "gpu,io", "--node", "two", "--devices", "cpu:1", "--home", str(tmp_path / "two"))
    refused(wanworks(*words, **given), ExitCode.USAGE, "it is not the store of this installation")

    second = subprocess.Popen(
        [sys.executable, "-m", "wanworks.cli.main", *words],
        env={**stack.environment, **given, "WANWORKS_STORE_PATH": str(stack.home / "store")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert second.stdout is not None
        assert second.stdout.readline() == "ready two\n"
        shown = json.loads(wanworks("status", "--json", home=tmp_path / "two").stdout)
        assert [process["name"] for process in shown["processes"]] == ["gpu-0", "io"]
        assert shown["api_url"] is None
        listed = wait_for(lambda: "gpu-0@two" in wanworks("workers", home=stack.home).stdout, 20)
        assert listed
    finally:
        second.terminate()
        assert second.wait(20) == 0
        second.stdout.close() if second.stdout else None


def test_stopping_leaves_no_process_and_says_so_in_status(stack):
    pids = {*stack.processes(), stack.pid("redis")}  # a Redis overwrites the environment that it is known by
    assert len(pids) >= 8
    assert stack.stop(15) == 0

    assert stack.processes() == []
    assert [pid for pid in pids if started_ticks(pid)] == []
    shown = json.loads(wanworks("status", "--json", home=stack.home).stdout)
    assert shown["running"] is False
    assert {process["state"] for process in shown["processes"]} == {"stopped"}
