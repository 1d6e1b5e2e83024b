"""Carries out the worked examples of CONTRIBUTING.md on a copy of the tree, and runs the commands that they give."""

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.support.places import ROOT

_BLOCKS = re.compile(
    r"^`(?P<path>[\w./-]+)` \(new\):\n\n```\w+\n(?P<content>.*?)^```$|^```(?P<kind>diff|sh)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@pytest.fixture
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows, with the environment of this clone."""
    folder = tmp_path_factory.mktemp("contributing") / "clone"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def test_the_examples_fit_the_code(tree: Path) -> None:
    for block in _BLOCKS.finditer((ROOT / "CONTRIBUTING.md").read_text()):
        if block["path"]:
            (tree / block["path"]).write_text(block["content"])
        elif block["kind"] == "diff":
            apply(tree, block["body"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_worked_examples_work(tree: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    done = {"new": 0, "diff": 0, "sh": 0}
    for block in _BLOCKS.finditer(text):
        if block["path"]:
            (tree / block["path"]).write_text(block["content"])
        elif block["kind"] == "diff":
            apply(tree, block["body"])
        else:
            run(tree, block["body"])
        done["new" if block["path"] else block["kind"]] += 1
    assert min(done.values()) >= 4
    for check in ("ruff format --check .", "ruff check .", "mypy", "lint-imports"):
        run(tree, f".venv/bin/{check}")


def apply(tree: Path, diff: str) -> None:
    """Replace the old lines of each hunk with its new ones. The old lines must stand in the file exactly once."""
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, _, hunks = part.partition("\n")
        file = tree / name
        content = file.read_text()
        for hunk in re.split(r"^@@\n", hunks, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            old = "".join(line[1:] for line in lines if line[0] != "+")
            new = "".join(line[1:] for line in lines if line[0] != "-")
            assert content.count(old) == 1, f"{name} has this {content.count(old)} times:\n{textwrap.indent(old, '  ')}"
            content = content.replace(old, new)
        file.write_text(content)


def run(tree: Path, command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANWORKS_", "PYTEST_"))}
    done = subprocess.run(["sh", "-ec", command], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
