"""What an operator sees of the running system: Flower, inspect, pinning, a missing Redis, PostgreSQL."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.settings import Settings
from shared.telemetry.node_logs import NodeLogs
from tests.conftest import RedisServer
from tests.support.stack import QUICK, Stack, children, command_line, environment_of, wait_for

LONG = {"resolution": "256x256", "frames": 17, "steps": 60}


def test_flower_lists_tasks_under_their_job_ids_with_the_true_outcome(stack: Stack) -> None:
    (stack.home / "loras").mkdir(exist_ok=True)
    (stack.home / "loras" / "broken.safetensors").write_bytes(b"not a tensor")
    good, bad = stack.submit(), stack.submit(loras=[{"name": "broken"}])
    stopped = stack.submit(**LONG)
    assert stack.wait_status(good)["status"] == "succeeded"
    failed = stack.wait_status(bad)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "bad_input")
    stack.wait_status(stopped, ["running"])
    stack.request("POST", f"/api/v1/jobs/{stopped}/cancel")
    stack.wait_status(stopped)

    def told() -> dict[str, Any] | None:
        answer = stack.flower("/api/tasks?limit=200")
        tasks = answer.json() if answer.status_code == 200 else {}
        states = {job_id: tasks.get(job_id, {}).get("state") for job_id in (good, bad, stopped)}
        wanted = {good: "SUCCESS", bad: "FAILURE", stopped: "REVOKED"}
        return tasks if states == wanted else None

    tasks = wait_for(told, 30, "for Flower to tell")
    assert tasks[good]["name"] == "wanworks.generation"
    assert "generation T2V-A14B" in tasks[good]["args"]
    assert "bad_input" in tasks[bad]["exception"]


def test_flower_asks_who_is_there(stack: Stack) -> None:
    assert stack.flower("/", auth=("wanworks", "wrong")).status_code == 401
    assert httpx.get(stack.state()["flower_url"] + "/api/tasks").status_code == 401


def test_ping_and_inspect_answer_during_a_long_step(stack: Stack) -> None:
    job_id = stack.submit(**LONG)
    running = stack.wait_status(job_id, ["running"])
    environment = {**os.environ, "WANWORKS_HOME": str(stack.home), "WANWORKS_REDIS_URL": stack.state()["redis_url"]}
    for command in (["ping"], ["active"]):
        argv = [sys.executable, "-m", "celery", "-A", "scheduler.app", "inspect", "-t", "5", *command]
        argv += ["-d", running["worker"]]
        wanted = "pong" if command == ["ping"] else job_id

        def answered(argv: list[str] = argv, wanted: str = wanted) -> bool:
            answer = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30)
            assert answer.returncode == 0, answer.stdout + answer.stderr
            return wanted in answer.stdout

        wait_for(answered, 20, wanted)  # the child tells the main process of its task after it has begun
    assert stack.job(job_id)["status"] == "running"
    stack.request("POST", f"/api/v1/jobs/{job_id}/cancel")
    stack.wait_status(job_id)


def test_workers_answer_for_the_logs_of_their_node(stack: Stack, tmp_path: Path) -> None:
    job = stack.wait_status(stack.submit())
    redis_url = stack.state()["redis_url"]
    elsewhere = NodeLogs(Settings(home=tmp_path, node="elsewhere", redis_url=redis_url))
    found = elsewhere.read({"here": ["io@here", "gpu-0@here"], "gone": ["io@gone"]}, 200)
    assert found["gone"] is None
    read = found["here"]
    assert read is not None
    assert {"gpu-0", "io", "web"} <= set(read.names)
    assert any(line["process"].startswith("gpu-") and line["time"] for line in read.lines)
    assert len({tuple(line.items()) for line in read.lines}) == len(read.lines), "both workers read the same files"
    shown = stack.request("GET", f"/api/v1/jobs/{job['id']}/log").json()
    assert (shown["host"], shown["unanswered"]) == ("here", [])
    assert not any(job["id"] in line["message"] and "received" in line["message"] for line in shown["lines"])
    web = stack.request("GET", "/api/v1/nodes/here/log?process=web&lines=5").json()
    assert {line["process"] for line in web["lines"]} == {"web"}
    assert 1 <= len(web["lines"]) <= 5
    printed = stack.cli("logs", "web", "--node", "here", "--lines", "3")
    assert 1 <= len(printed.stdout.splitlines()) <= 3, printed.stderr
    assert "gpu-0" in stack.cli("logs", "--node", "here").stdout
    of_device = stack.cli("logs", f"gpu-{job['device'].removeprefix('cpu-')}", "--lines", "500").stdout
    for said in ("starts: generation T2V-A14B", "leaves the device", "succeeded after "):
        assert re.search(rf"job {job['id']}: attempt 1:? {said}", of_device), said
    assert "T2V-A14B is loaded after " in of_device
    assert "received" not in of_device


def test_two_devices_run_two_jobs_at_once_and_each_process_sees_only_its_own(stack: Stack) -> None:
    ids = [stack.submit(**LONG, seed=1), stack.submit(**LONG, seed=2)]
    running = wait_for(lambda: all(stack.job(job_id)["status"] == "running" for job_id in ids), 60) and [
        stack.job(job_id) for job_id in ids
    ]
    assert {job["device"] for job in running} == {"cpu-0", "cpu-1"}
    for index in (0, 1):
        for pid in (stack.pid(f"gpu-{index}"), stack.child(f"gpu-{index}")):
            environment = environment_of(pid)
            assert environment["WANWORKS_DEVICE"] == f"cpu:{index}"
            assert environment["CUDA_VISIBLE_DEVICES"] == ""
    workers = stack.request("GET", "/api/v1/workers").json()["devices"]
    assert {(item["worker"], item["job"]) for item in workers} == {(job["worker"], job["id"]) for job in running}
    for job_id in ids:
        stack.request("POST", f"/api/v1/jobs/{job_id}/cancel")
        stack.wait_status(job_id)


def test_no_secret_is_on_a_command_line(stack: Stack) -> None:
    secrets = [(stack.home / name).read_text().strip() for name in ("redis-password", "flower-password")]
    for pid in stack.processes():
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        assert not any(secret in line for secret in secrets)


def test_the_same_seed_gives_the_same_video_on_either_device(stack: Stack) -> None:
    ids = [stack.submit(seed=7, prompt="the same") for _ in range(4)]
    jobs = stack.wait_all(ids)
    videos = {
        hashlib.sha256(stack.request("GET", job["result"]["artifacts"][0]["url"]).content).hexdigest() for job in jobs
    }
    assert len(videos) == 1


def test_placeholder_output_is_made_only_if_requested_and_the_model_is_missing(stack: Stack) -> None:
    job = stack.wait_status(stack.submit(fallback=["mock_generation"]))
    assert job["mock"] is False


def test_progress_never_goes_back_and_the_event_stream_ends_with_the_final_state(stack: Stack) -> None:
    job_id = stack.submit(resolution="128x128", frames=17, steps=8)
    percents, last = [], ""
    with httpx.stream("GET", f"{stack.url}/api/v1/jobs/{job_id}/events", timeout=90) as response:
        for line in response.iter_lines():
            if line.startswith("data:"):
                last = line
                if '"percent":' in line:
                    percents.append(float(line.split('"percent":')[1].split(",")[0].split("}")[0]))
    assert percents == sorted(percents)
    assert len(percents) > 5
    assert '"succeeded"' in last


@pytest.fixture
def redisless(demo_models: Path, tmp_path: Path, redis_server: RedisServer) -> Iterator[Stack]:
    stack = Stack(tmp_path / "home", demo_models, "cpu:2", WANWORKS_REDIS_URL=redis_server.url)
    stack.start()
    yield stack
    stack.stop()


@pytest.mark.slow
def test_with_redis_gone_accepts_go_on_and_running_jobs_neither_stall_nor_miss_a_cancel(
    redisless: Stack, redis_server: RedisServer
) -> None:
    stack = redisless
    stack.wait_all([stack.submit(), stack.submit(seed=1)])  # both devices warm
    running, cancelled = stack.submit(**LONG, seed=1), stack.submit(**{**LONG, "steps": 100}, seed=2)
    for job_id in (running, cancelled):
        stack.wait_status(job_id, ["running"])
    redis_server.kill()
    ready = wait_for(
        lambda: (body := stack.request("GET", "/readyz").json())["status"] == "degraded" and body, 20, "for degraded"
    )
    assert any("redis" in reason.lower() for reason in ready["reasons"])
    began = time.monotonic()
    response = stack.request("POST", "/api/v1/jobs/generation", json=QUICK)
    assert response.status_code == 202
    assert time.monotonic() - began < 2
    waiting = response.json()["id"]
    stack.request("POST", f"/api/v1/jobs/{cancelled}/cancel")
    assert stack.wait_status(cancelled, seconds=15)["status"] == "cancelled"
    assert stack.wait_status(running)["status"] == "succeeded"
    redis_server.start()
    assert stack.wait_status(waiting)["status"] == "succeeded"
    wait_for(lambda: stack.request("GET", "/readyz").json()["status"] == "ok", 30, "for ok again")


@pytest.mark.slow
def test_the_same_on_postgresql(demo_models: Path, tmp_path: Path, postgresql_server: str) -> None:
    import psycopg

    with psycopg.connect(postgresql_server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE whole_stack")
    url = postgresql_server.replace("/postgres?", "/whole_stack?")
    stack = Stack(tmp_path / "home", demo_models, "cpu:2", WANWORKS_DATABASE_URL=url)
    stack.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            ids = list(pool.map(lambda place: stack.submit(seed=place), range(16)))
        wait_for(lambda: sum(stack.job(job_id)["finished_at"] is not None for job_id in ids) >= 2, 60)
        stack.kill_process("gpu-0-child")
        jobs = stack.wait_all(ids)
        assert {job["status"] for job in jobs} == {"succeeded"}
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            rows = connection.execute("select job_id, outcome from uses").fetchall()
        assert sorted(rows) == sorted((job_id, "succeeded") for job_id in ids)
    finally:
        stack.stop()


def test_every_process_logs_json_that_says_what_it_is_about(stack: Stack) -> None:
    job_id = stack.submit(prompt="a log", model_id="T2V-A14B", loras=[])
    stack.wait_status(job_id)
    killed = stack.child("gpu-1")
    os.kill(killed, signal.SIGKILL)
    log = stack.home / "logs" / "gpu-1.log"
    wait_for(lambda: f"pid:{killed} exited" in log.read_text(), 30, "the line about the child that was killed")
    wait_for(lambda: stack.child("gpu-1") not in (None, killed), 60, "another child")
    names = ("web", "gpu-0", "gpu-1", "io", "dispatcher", "beat")
    for name in names:
        for line in (stack.home / "logs" / f"{name}.log").read_text().splitlines():
            if "calling self.run()" in line:
                continue  # of the process library, before a child's logs can be set up
            entry = json.loads(line)
            assert {"time", "level", "logger", "message", "node", "process"} <= entry.keys(), line
            assert entry["node"] == "here"
    about_jobs = [
        json.loads(line)
        for name in ("gpu-0", "gpu-1")
        for line in (stack.home / "logs" / f"{name}.log").read_text().splitlines()
        if '"job_id"' in line
    ]
    assert all(entry["attempt"] >= 1 and entry["device"].startswith("cpu-") for entry in about_jobs)


def test_a_child_is_born_with_manners(stack: Stack) -> None:
    """Beside devices hashing and fetching are nice, and no child outlives its main process."""
    io = stack.pid("io")
    born = wait_for(lambda: [pid for pid in children(io) if "billiard-fork" in command_line(pid)], 30, "for children")
    wait_for(lambda: all(os.getpriority(os.PRIO_PROCESS, pid) == 10 for pid in born), 30, "for niceness")
    assert os.getpriority(os.PRIO_PROCESS, stack.child("gpu-0")) == 0
