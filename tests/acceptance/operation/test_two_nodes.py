"""Two nodes on one PostgreSQL, one Redis and one store: each holds another model, and a job runs where its model is."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.support.stack import Stack, wait_for


@pytest.fixture
def pair(
    demo_models: Path, tmp_path: Path, postgresql_server: str, redis_server: RedisServer
) -> Iterator[tuple[Stack, "subprocess.Popen[str]"]]:
    import psycopg

    with psycopg.connect(postgresql_server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE two_nodes")
    common = {
        "WANWORKS_DATABASE_URL": postgresql_server.replace("/postgres?", "/two_nodes?"),
        "WANWORKS_REDIS_URL": redis_server.url,
        "WANWORKS_STORE_PATH": str(tmp_path / "store"),
    }
    for node, model in (("one", "T2V-A14B"), ("two", "TI2V-5B")):
        folder = f"models--wanworks-demo--{model}"
        shutil.copytree(demo_models / folder, tmp_path / node / "models" / folder, symlinks=True)
    first = Stack(tmp_path / "one" / "home", tmp_path / "one" / "models", "cpu:1", WANWORKS_NODE="one", **common)
    first.start()
    argv = [
        sys.executable,
        "-m",
        "wanworks.cli.main",
        "up",
        "--home",
        str(tmp_path / "two" / "home"),
        "--only",
        "gpu,io",
    ]
    argv += ["--node", "two", "--devices", "cpu:1", "--catalogue", "demo"]
    environment = {**first.environment, "WANWORKS_MODELS_PATH": str(tmp_path / "two" / "models")}
    del environment["WANWORKS_NODE"]
    second = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield first, second
    finally:
        second.terminate()
        second.wait(20)
        first.stop()


@pytest.mark.slow
def test_a_job_runs_where_its_model_is_and_status_shows_both(pair: tuple[Stack, "subprocess.Popen[str]"]) -> None:
    stack, second = pair
    assert second.stdout is not None
    assert second.stdout.readline().startswith("ready")

    def replicas() -> dict[str, dict[str, str]]:
        models = stack.request("GET", "/api/v1/models/status/detailed").json()["models"]
        return {
            model_id: {replica["node"]: replica["availability_status"] for replica in model["replicas"]}
            for model_id, model in models.items()
        }

    wait_for(
        lambda: (
            (found := replicas())["T2V-A14B"] == {"one": "available", "two": "missing"}
            and found["TI2V-5B"] == {"one": "missing", "two": "available"}
        ),
        40,
        "for both nodes' scans",
    )
    ids = [stack.submit(model_id=model, seed=place) for place in range(3) for model in ("T2V-A14B", "TI2V-5B")]
    jobs = stack.wait_all(ids)
    assert {(job["model_id"], job["node"], job["status"]) for job in jobs} == {
        ("T2V-A14B", "one", "succeeded"),
        ("TI2V-5B", "two", "succeeded"),
    }
    for job in jobs:
        assert stack.request("GET", job["result"]["artifacts"][0]["url"]).status_code == 200
