"""What a process saves at its start: imports that it does not need, and searches for garbage."""

import json
import subprocess
import sys

import pytest

from tests.support.places import ROOT

# What the handlers of jobs, pictures and the hub's client need, in the children alone.
HEAVY = {"torch", "diffusers", "numpy", "PIL", "huggingface_hub", "httpx2", "alembic", "s3fs"}


def run(program: str, **environment: str) -> dict:
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(made.stdout)


@pytest.mark.parametrize("role", ["gpu", "io"])
def test_a_workers_main_process_imports_nothing_that_only_its_children_need(role, tmp_path):
    program = """
import json, sys
import workers.celery_app
workers.celery_app.app.loader.import_default_modules()
from workers.processes import device_watch, log_command, main_process, node_process, sampler, webhook_sender
print(json.dumps(dict.fromkeys(sys.modules)))
"""
    known = {"WANWORKS_REDIS_URL": "redis://127.0.0.1:1/0", "WANWORKS_HOME": str(tmp_path), "WANWORKS_ROLE": role}
    assert HEAVY & set(run(program, **known, WANWORKS_DEVICE="cpu:0")) == set()


def test_garbage_is_collected_again_once_a_process_has_started():
    program = """
import gc, json, sys
from shared import garbage, startup
startup.begin()
during = gc.isenabled()
import httpx
garbage.freeze()
rich = "rich" in sys.modules
print(json.dumps({"during": during, "after": gc.isenabled(), "rich": rich, "frozen": gc.get_freeze_count()}))
"""
    found = run(program)
    assert (found["during"], found["after"], found["rich"]) == (False, True, False)
    assert found["frozen"] > 10_000
