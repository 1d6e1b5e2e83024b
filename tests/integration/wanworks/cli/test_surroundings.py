"""The command line under an ASCII locale, and with outputs that cannot be written."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import ROOT
from wanworks.errors import ExitCode

NAME = "M\xf6dell \u65e5\u672c \U0001f600"
JOB = {"id": NAME, "type": "generation", "model_id": NAME, "status": "queued", "progress": {"percent": 0},
       "device": None, "params": {"prompt": NAME}, "created_at": "2026-01-31T12:00:00Z"}  # fmt: skip
PROBLEM = {"title": "Unprocessable", "detail": f"{NAME} is not offered", "code": "validation_error"}
LOCALES = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "latin-1"},
]


@dataclass
class Api:
    """Responds like the API: a page with one job, and a refusal of submitted jobs."""

    url: str
    sent: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def api() -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {"data": [JOB], "has_more": False, "next": None})

        def do_POST(self) -> None:
            api.sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(422, PROBLEM)

        def _answer(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    api = Api(f"http://127.0.0.1:{server.server_address[1]}")
    yield api
    server.shutdown()
    server.server_close()


def wanworks(
    api: Api, *words: str, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[bytes]":
    known = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    root = str(ROOT)
    argv = [sys.executable, "-m", "wanworks.cli.main", *words, "--url", api.url]
    env = {**known, "PYTHONPATH": root, **environment}
    return subprocess.run(argv, capture_output=True, timeout=60, env=env, cwd=cwd or root)


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_other_letters_are_printed_whatever_the_locale_is(api: Api, locale: dict[str, str]) -> None:
    table = wanworks(api, "jobs", **locale)
    assert (table.returncode, table.stderr) == (0, b"")
    as_json = wanworks(api, "jobs", "--json", **locale)
    assert json.loads(as_json.stdout.decode("utf-8"))["data"] == [JOB]
    refused = wanworks(api, "generate", f"a {NAME}", **locale)
    assert refused.returncode == ExitCode.REFUSED
    assert b"Traceback" not in refused.stderr
    assert b"is not offered" in refused.stderr
    assert api.sent[0]["prompt"] == f"a {NAME}"


def test_an_undecodable_file_name_is_reported(api: Api, tmp_path: Path) -> None:
    told = wanworks(api, "generate", "--batch", os.fsdecode(bytes(tmp_path) + b"/\xff.jsonl"), "--out", "out")
    assert told.returncode == ExitCode.USAGE
    assert b"No such file" in told.stderr
    assert b"Traceback" not in told.stderr


def _unwritable(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "video.mp4"


@pytest.mark.parametrize(
    ("out", "told"),
    [
        (".", "is a folder; name a file in it"),
        ("missing/deeper/video.mp4", "does not exist; create it first"),
        ("file/video.mp4", "is not a folder"),
        ("/dev/null", "is not a regular file"),
        ("/proc/video.mp4", "cannot be written"),
        ("x" * 260 + ".mp4", "cannot be written: File name too long"),
    ],
)
def test_no_job_is_submitted_if_its_video_cannot_be_written(api: Api, tmp_path: Path, out: str, told: str) -> None:
    (tmp_path / "file").write_text("")
    done = wanworks(api, "generate", "a boat", "--out", out, cwd=tmp_path)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert done.stderr.decode().startswith(f"wanworks: --out {out}: ")
    assert told in done.stderr.decode()
    assert api.sent == []
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_with_the_name_of_a_batch_s_video_is_reported_first(api: Api, tmp_path: Path) -> None:
    batch = tmp_path / "batch.jsonl"
    batch.write_text('{"model_id": "T2V-A14B", "prompt": "x", "name": "boat", "output_format": "webm"}\n')
    (tmp_path / "out" / "boat.webm").mkdir(parents=True)
    done = wanworks(api, "generate", "--batch", str(batch), "--out", str(tmp_path / "out"))
    assert done.returncode == ExitCode.USAGE
    assert b"line 1: " in done.stderr
    assert b"is a folder" in done.stderr
    assert api.sent == []


def test_what_is_there_and_half_there_stays(api: Api, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"before")
    (tmp_path / "video.mp4.partial").write_bytes(b"half")
    assert wanworks(api, "generate", "a boat", "--out", "video.mp4", cwd=tmp_path).returncode == ExitCode.REFUSED
    assert len(api.sent) == 1
    assert (tmp_path / "video.mp4").read_bytes() == b"before"
    assert (tmp_path / "video.mp4.partial").read_bytes() == b"half"
