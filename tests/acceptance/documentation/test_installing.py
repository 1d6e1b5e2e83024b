"""The pages on installing and uninstalling, run from top to bottom, and that on troubleshooting against the code.

The service manager and the commands that change users are stand-ins, because a test must not change this machine: the
one for `systemctl` runs what the unit says.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared import errors
from shared.errors import WanworksError
from tests.acceptance.documentation.test_documentation import DOCS, as_read, blocks
from tests.conftest import free_port
from tests.support.places import ROOT

SYSTEMCTL = """\
import os, pathlib, re, signal, subprocess, sys, time
unit, pid = pathlib.Path("{etc}/systemd/system/wanworks.service"), pathlib.Path("{etc}/pid")
words = sys.argv[1:]
if words[:1] == ["enable"]:
    said = dict(re.findall(r"^(WorkingDirectory|Environment|ExecStartPre|ExecStart)=(.*)$", unit.read_text(), re.M))
    name, _, value = said["Environment"].partition("=")
    known = dict(os.environ, **{{name: value}})
    subprocess.run(said["ExecStartPre"].split(), cwd=said["WorkingDirectory"], env=known, check=True)
    log = open("{etc}/up.log", "w")
    words, folder = said["ExecStart"].split(), said["WorkingDirectory"]
    started = subprocess.Popen(words, cwd=folder, env=known, stdout=log, stderr=log)
    pid.write_text(str(started.pid))
elif words[:1] == ["disable"]:
    os.kill(int(pid.read_text()), signal.SIGTERM)
    deadline = time.monotonic() + 30
    while pathlib.Path("/proc", pid.read_text(), "exe").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
elif words != ["daemon-reload"]:
    sys.exit(f"unexpected: {{words}}")
"""


@pytest.mark.slow
def test_the_pages_on_installing_and_uninstalling(tmp_path: Path) -> None:
    opt, etc, var, tools = (tmp_path / name for name in ("opt/wanworks", "etc", "var/lib/wanworks", "tools"))
    for folder in (opt, etc / "systemd" / "system", tools):
        folder.mkdir(parents=True)
    for found in ROOT.iterdir():
        if found.name not in ("docker", ".git", ".wanworks"):
            (opt / found.name).symlink_to(found)
    unit = ROOT / "docker" / "systemd" / "wanworks.service"
    (opt / "docker" / "systemd").mkdir(parents=True)
    port = str(free_port())

    def here(text: str) -> str:
        for written, real in (("/opt/wanworks", opt), ("/etc/", f"{etc}/"), ("/var/lib/wanworks", var)):
            text = text.replace(written, str(real))
        return text.replace("8000", port)

    (opt / "docker" / "systemd" / unit.name).write_text(here(unit.read_text()))
    _tool(tools / "systemctl", f"exec {sys.executable} - \"$@\" <<'END'\n{SYSTEMCTL.format(etc=etc)}END\n")
    _tool(tools / "runuser", 'shift 3; exec "$@"\n')
    for name in ("useradd", "userdel", "chown"):
        _tool(tools / name, "exit 0\n")
    script = "\n".join(here(code) for page in ("install", "uninstall") for _, code in blocks(DOCS / f"{page}.md", "sh"))
    script = script.replace("--out boat.mp4", "--resolution 64x64 --frames 9 --steps 2 --out boat.mp4")
    script = script.replace("--dry-run", "--resolution 64x64 --frames 9 --steps 2 --dry-run")
    kept = tmp_path / "boat.mp4"
    script = script.replace("systemctl disable", f"cp boat.mp4 {kept}\nsystemctl disable")
    done = as_read(
        f"export PATH={tools}:$PATH\n{script}", tmp_path, seconds=280,
        WANWORKS_CATALOGUE="demo", WANWORKS_DEVICES="cpu:1", WANWORKS_FLOWER_PORT="0", WANWORKS_MIN_FREE_DISK_MB="0",
    )  # fmt: skip
    log = (etc / "up.log").read_text()[-2000:] if (etc / "up.log").exists() else ""
    assert done.returncode == 0, done.stderr + done.stdout[-2000:] + log
    assert kept.read_bytes()[4:8] == b"ftyp"
    assert re.search(r"^GPU seconds|^video ", done.stdout, re.MULTILINE)
    assert not opt.exists()
    assert not var.exists()
    assert (ROOT / "Makefile").is_file(), "only links were removed"


def _tool(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}")
    path.chmod(0o755)


def test_the_unit_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    unit = (ROOT / "docker" / "systemd" / "wanworks.service").read_text()
    assert re.findall(r"^\[(\w+)\]$", unit, re.MULTILINE) == ["Unit", "Service", "Install"]
    commands = re.findall(r"^Exec\w+=/opt/wanworks/\.venv/bin/wanworks (\w+)$", unit, re.MULTILINE)
    for command in commands:
        words = [sys.executable, "-m", "wanworks.cli.main", command, "--help"]
        assert subprocess.run(words, env=os.environ, capture_output=True, timeout=60, check=False).returncode == 0


def test_every_code_of_an_error_is_explained() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    explained = set(re.findall(r"`([a-z_]+)`", page))
    internal = {"internal_error", "job_failed", "fenced", "draining", "preempted", "paused", "configuration_error"}
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WanworksError)}
    assert codes - internal - explained == set()
