"""The container files, as far as they can be tried where no engine runs: schema, sources, packages, commands.

Not tried here: pulling the base images, apt, the NVIDIA runtime, and the containers themselves.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import packages_distributions, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from celery import Celery
from redbeat.schedulers import RedBeatConfig

from shared.settings import Settings
from tests.support.places import ROOT
from wanworks.cli.main import app

DOCKERFILES = ("docker/api.Dockerfile", "docker/worker.Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("wanworks-")}


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments), continuation lines joined, comments dropped."""
    lines = [line for line in (ROOT / dockerfile).read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(words[0], words[2]) for line in joined.splitlines() if (words := line.partition(" "))[0]]


def copied_sources(dockerfile: str) -> list[str]:
    """What COPY takes from the build context."""
    arguments = [shlex.split(text) for name, text in instructions(dockerfile) if name == "COPY"]
    return [source for words in arguments if not words[0].startswith("--from") for source in words[:-1]]


def ignored(path: str) -> bool:
    """As .dockerignore says; its patterns here are plain, the last match wins."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!").removeprefix("**/")
        inside = fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*") or fnmatch(Path(path).name, pattern)
        if inside:
            verdict = not line.startswith("!")
    return verdict


def pins(name: str) -> dict[str, str]:
    """Package to version, with what the file takes in by -r."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line.startswith("-r "):
            found |= pins(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            package, _, pinned = line.partition("==")
            found[package] = pinned
    return found


def test_compose_follows_the_compose_specification():
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    validator = jsonschema.validators.validator_for(json.loads(schema.read_text()))

    assert [error.message for error in validator(json.loads(schema.read_text())).iter_errors(COMPOSE)] == []


def test_compose_names_only_what_is_there():
    for name, service in SERVICES.items():
        if "build" in service:
            assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT
            assert service["build"]["dockerfile"] in DOCKERFILES, name
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(COMPOSE["volumes"]), name


def test_compose_runs_every_process_and_watches_all_that_stay():
    started = {service["command"][1] for service in OURS.values()}

    assert started == {"web", "worker", "io", "dispatcher", "beat", "flower", "migrate"}
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"migrate"}


def test_the_apis_flower_is_the_one_that_runs_and_nobody_else_reaches_it():
    web, flower = SERVICES["web"]["environment"], SERVICES["flower"]["environment"]

    assert web["WANWORKS_FLOWER_URL"] == "http://flower:5555"
    assert web["WANWORKS_FLOWER_PASSWORD"] == flower["WANWORKS_FLOWER_PASSWORD"]
    assert flower["WANWORKS_FLOWER_HOST"] == "0.0.0.0"
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"web"}


def test_beats_health_is_the_lock_that_it_holds():
    conf = RedBeatConfig(
        Celery(
            set_as_current=False, changes={"redbeat_key_prefix": "wanworks:redbeat:", "redbeat_redis_url": "redis://"}
        )
    )

    assert 'redbeat_key_prefix="wanworks:redbeat:"' in (ROOT / "scheduler/app.py").read_text()
    assert f"exists('{conf.lock_key}')" in SERVICES["beat"]["healthcheck"]["test"][3]


def test_nothing_in_compose_runs_as_root_or_shows_a_password_on_a_command_line():
    for name, service in SERVICES.items():
        if name not in OURS:
            assert service["user"] in ("redis", "postgres")
        words = json.dumps([service.get("command"), service.get("healthcheck")])
        assert not re.search(r"(?<!\$)\$\{?\w*PASSWORD", words), name  # compose would put the value there
    for dockerfile in DOCKERFILES:
        assert [text for name, text in instructions(dockerfile) if name == "USER"] == ["10001"]


def test_each_gpu_worker_has_its_own_gpu_and_node_with_an_io_worker_beside_it():
    workers = [service for service in OURS.values() if service["command"][1] == "worker"]
    reserved = [service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for service in workers]
    nodes = [service["environment"]["WANWORKS_NODE"] for service in workers]
    io_nodes = [service["environment"]["WANWORKS_NODE"] for service in OURS.values() if service["command"][1] == "io"]

    assert reserved == [["0"], ["1"]]
    assert len(set(nodes)) == len(nodes)
    assert sorted(nodes) == sorted(io_nodes)


def test_compose_and_images_set_only_settings_that_exist():
    known = {f"WANWORKS_{name.upper()}" for name in Settings.model_fields}
    said = {key for service in OURS.values() for key in service["environment"] if key.startswith("WANWORKS_")}
    for dockerfile in DOCKERFILES:
        text = " ".join(text for name, text in instructions(dockerfile) if name == "ENV")
        said |= set(re.findall(r"WANWORKS_\w+(?==)", text))

    assert said <= known


def test_commands_are_commands_of_ours():
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    lines = [shlex.split(line.partition(":")[2]) for line in (ROOT / "Procfile").read_text().splitlines()]
    lines += [service["command"] for service in OURS.values()]
    lines += [json.loads(text) for file in DOCKERFILES for name, text in instructions(file) if name == "CMD"]

    assert all(words[0] == "wanworks" and words[1] in known for words in lines)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_what_is_copied_exists_and_is_not_ignored(dockerfile):
    for source in copied_sources(dockerfile):
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


def test_the_build_context_contains_no_secrets_and_no_unneeded_files():
    assert all(ignored(path) for path in ("docker/.env", ".git/config", ".wanworks/wanworks.db", ".venv/bin/python"))
    assert ignored("api/__pycache__/app.cpython-311.pyc")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_requirements_of_the_image_are_pinned_to_what_these_tests_ran_with(dockerfile):
    runs = " ".join(text for name, text in instructions(dockerfile) if name == "RUN")
    wanted = {
        package: pin for name in re.findall(r"-r requirements/(\S+)", runs) for package, pin in pins(name).items()
    }
    here = {package: version(package).partition("+")[0] for package in wanted}

    assert wanted == here
    assert ("torch" in wanted) == (dockerfile == "docker/worker.Dockerfile")


@pytest.mark.slow
def test_what_the_image_copies_installs_and_brings_every_module_and_page(tmp_path):
    context, target = tmp_path / "context", tmp_path / "site"
    for source in copied_sources("docker/api.Dockerfile"):
        here, there = ROOT / source, context / source
        there.parent.mkdir(parents=True, exist_ok=True)
        if here.is_dir():
            shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(here, there)
    runs = [text for name, text in instructions("docker/api.Dockerfile") if name == "RUN"]
    install = next(text.split() for text in runs if "/pip install" in text and text.endswith(" ."))
    command = [sys.executable, "-m", "pip", *install[1:], "--target", str(target), "--no-index", "--quiet"]
    subprocess.run(command, cwd=context, check=True, capture_output=True, timeout=120)

    beside = next(shlex.split(text)[2:-1] for text in runs if text.startswith("cp -r "))
    for name in beside:
        shutil.copytree(context / name, target / name)

    packages = ("api", "scheduler", "shared", "wanworks", "workers")
    wanted = {path.relative_to(ROOT) for name in packages for path in (ROOT / name).rglob("*") if path.is_file()}
    brought = {path.relative_to(target) for name in packages for path in (target / name).rglob("*")}
    assert {path for path in wanted - brought if "__pycache__" not in path.parts} == set()
    entry = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import wanworks.cli.main; print(wanworks.cli.main.__file__); wanworks.cli.main.main()",
            "--help",
        ],
        env={"PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert entry.stdout.startswith(str(target))


@pytest.mark.slow
def test_the_api_image_needs_nothing_that_it_does_not_install():
    known = set(pins("runtime.txt"))
    foreign = sorted(
        name
        for name, distributions in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", found).lower() for found in distributions} & (known | {"wanworks"})
    )
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({foreign!r}))\n"  # None there makes an import fail
        "import api.app, api.__main__, scheduler.app, scheduler.dispatcher, flower.command\n"
        "import wanworks.cli.main, wanworks.supervise.up, wanworks.client.client"
    )
    env = {"WANWORKS_REDIS_URL": "redis://127.0.0.1:1/0", "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True, timeout=60)

    assert result.returncode == 0, result.stderr
