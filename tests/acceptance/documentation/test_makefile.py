"""The Makefile: `make help` lists its targets, and `make up` leaves to the settings what it was not given."""

import os
import re
import subprocess

import pytest

from tests.support.places import ROOT


def make(*words: str) -> str:
    hidden = ("MAKE", "MFLAGS", "PORT", "FLOWER_PORT", "DEVICES", "CATALOGUE", "STACK_HOME")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    # As if the environment was there: these tests install nothing.
    old = ("--assume-old=.venv/setup-stamp", "--assume-old=.venv/setup-dev-stamp")
    done = subprocess.run(["make", *old, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_target_in_lines_that_fit() -> None:
    text = make()
    assert text == make("help")
    targets = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    for target in set(targets[1].replace("\\\n", " ").split()) - {"help"}:
        assert re.search(rf"^  make {target} ", text, re.MULTILINE), target
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((), "--home .wanworks --catalogue demo"),
        (("PORT=8001", "FLOWER_PORT=0"), "--home .wanworks --catalogue demo --port 8001 --flower-port 0"),
        (("CATALOGUE=default", "DEVICES=cuda:0,1"), "--home .wanworks --catalogue default --devices cuda:0,1"),
    ],
)
def test_up_passes_on_what_it_was_given(given: tuple[str, ...], options: str) -> None:
    assert " ".join(make("--dry-run", "up", *given).split()) == f"exec .venv/bin/wanworks up {options}"
