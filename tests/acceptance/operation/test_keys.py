"""Keys on a whole installation: made before it starts, asked for by everything, fair, and written nowhere."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis

from shared import clock
from tests.support.stack import QUICK, Stack, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in test_openai_client

NAMES = {"boss": ("--scope", "admin"), "many": (), "one": (), "looker": ("--scope", "read")}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory, secrets: dict[str, str]) -> Iterator[Stack]:
    """One device, and keys that were made before anything ran."""
    stack = Stack(tmp_path_factory.mktemp("keys") / "home", demo_models, devices="cpu:1")
    for name, scopes in NAMES.items():
        made = stack.cli("keys", "create", name, *scopes)
        assert made.returncode == 0, made.stderr
        assert "only once" in made.stderr
        secrets[name] = made.stdout.strip()
    stack.start()
    stack.key = secrets["boss"]
    yield stack
    stack.stop()


def test_it_does_not_listen_to_a_network_without_a_key(demo_models: Path, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "home", demo_models, WANWORKS_HOST="0.0.0.0")
    for words in (("up", "--only", "web,redis"), ("web",)):
        environment = {"WANWORKS_REDIS_URL": "redis://127.0.0.1:9/0"} if words == ("web",) else {}
        refused = stack.cli(*words, **environment)
        assert refused.returncode != 0
        assert "wanworks keys create NAME --scope admin" in refused.stderr


def test_the_command_line_uses_its_key(stack: Stack, secrets: dict[str, str]) -> None:
    words = ("generate", "a cat", "--no-wait", "--start-after", clock.iso(clock.now() + timedelta(hours=1)))
    without = stack.cli(*words)
    assert without.returncode != 0
    assert "API key" in without.stderr
    done = stack.cli(*words, WANWORKS_API_KEY=secrets["one"])
    assert done.returncode == 0, done.stderr
    mine = stack.cli("cancel", done.stdout.strip(), WANWORKS_API_KEY=secrets["one"])
    assert mine.returncode == 0, mine.stderr
    listed = json.loads(stack.cli("keys", "list", "--json").stdout)
    assert {item["name"]: item["state"] for item in listed} == dict.fromkeys(NAMES, "good")
    assert next(item for item in listed if item["name"] == "one")["used"]


@pytest.mark.slow
def test_one_keys_five_hundred_jobs_do_not_hold_up_anothers_one(stack: Stack, secrets: dict[str, str]) -> None:
    """On the real queue: running and dispatched jobs go first; then the other key's job starts."""
    many, one = bearer(secrets["many"]), bearer(secrets["one"])
    with httpx.Client(base_url=stack.url, timeout=60) as client:

        def submit(place: int) -> str:
            answer = client.post("/api/v1/jobs/generation", json={**QUICK, "prompt": f"{place}"}, headers=many)
            assert answer.status_code == 202, answer.text
            return str(answer.json()["id"])

        with ThreadPoolExecutor(16) as pool:
            ids = list(pool.map(submit, range(500)))
        answer = client.post("/api/v1/jobs/generation", json=QUICK, headers=one).json()
        accepted = time.time()
        ended = wait_for(
            lambda: (job := client.get(f"/api/v1/jobs/{answer['id']}", headers=one).json())["finished_at"] and job, 60
        )
        assert ended is not None
        assert ended["status"] == "succeeded"
        before = stack.sql(
            "select count(*) from jobs where owner = (select owner from jobs where id = ?) and started_at > "
            "(select created_at from jobs where id = ?) and started_at < (select started_at from jobs where id = ?)",
            ids[0], answer["id"], answer["id"],
        )[0][0]  # fmt: skip
        assert before <= 1, f"{before} of the many started between its coming and its start, {time.time() - accepted} s"
        left = client.get("/api/v1/jobs?status=queued&limit=1", headers=many).json()["data"]
        assert left, "most of the many still wait"
        own = client.get("/api/v1/jobs?limit=100", headers=one).json()["data"]
        assert not {job["id"] for job in own} & set(ids)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda job_id: client.delete(f"/api/v1/jobs/{job_id}", headers=many), ids))


def test_the_openai_client_raises_its_own_errors(stack: Stack, secrets: dict[str, str]) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=0)

    asked = {"model": "wan2.2-t2v-a14b", "prompt": "a cat", "size": "64x64", "seconds": "1"}
    with pytest.raises(openai.AuthenticationError, match="The API key is unknown"):
        client("wan_nobodys").videos.create(**asked)
    with pytest.raises(openai.PermissionDeniedError, match="scope `submit`"):
        client(secrets["looker"]).videos.create(**asked)
    limited = stack.cli("keys", "create", "limited", "--requests-per-minute", "1").stdout.strip()
    video = client(limited).videos.create(**asked)
    with pytest.raises(openai.RateLimitError) as refused:
        client(limited).videos.retrieve(video.id)
    assert int(refused.value.response.headers["retry-after"]) >= 1
    with pytest.raises(openai.NotFoundError):
        client(secrets["one"]).videos.retrieve(video.id)
    stack.wait_status(video.id)


def test_flower_is_behind_the_same_keys(stack: Stack, secrets: dict[str, str]) -> None:
    with httpx.Client(base_url=stack.url, timeout=20) as client:
        assert client.get("/flower/").status_code == 401
        assert client.get("/flower/", headers=bearer(secrets["one"])).status_code == 403
        page = wait_for(
            lambda: (got := client.get("/flower/", headers=stack_header(stack))).status_code == 200 and got, 30
        )
        assert page
        assert "Flower" in page.text
        for path in re.findall(r'(?:src|href)="(/flower/static/[^"]+)"', page.text):
            assert client.get(path, headers=stack_header(stack)).status_code == 200, path
        tasks = client.get("/flower/api/tasks?limit=5", headers=stack_header(stack))
        assert tasks.status_code == 200
        assert tasks.json()
        for hidden in (
            "/flower/metrics",
            "/flower/metrics/",
            "/flower//metrics",
            "/flower/%6detrics",
            "/flower/healthcheck",
        ):
            assert client.get(hidden, headers=stack_header(stack)).status_code == 404, hidden
        told = client.get("/api/v1/dashboard/flower", headers=stack_header(stack)).json()
        assert told == {"url": "/flower/", "user": "wanworks", "reachable": True}


def stack_header(stack: Stack) -> dict[str, str]:
    assert stack.key is not None
    return bearer(stack.key)


def test_prometheus_needs_a_key_that_may_read(stack: Stack, secrets: dict[str, str]) -> None:
    assert httpx.get(f"{stack.url}/metrics").status_code == 401
    assert "wanworks_" in httpx.get(f"{stack.url}/metrics", headers=bearer(secrets["looker"])).text


def test_a_secret_is_written_nowhere(stack: Stack, secrets: dict[str, str]) -> None:
    """Neither in a log, a file, a row, a process title, a message in Redis, nor on Flower's pages."""
    stack.request("GET", "/api/v1/jobs")
    kept = {name: (stack.home / name).read_text().strip() for name in ("redis-password", "flower-password")}
    hidden = list(secrets.values())
    for path in stack.home.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            for secret in hidden:
                assert secret.encode() not in content, path
            if path.suffix == ".log":
                assert not any(secret.encode() in content for secret in kept.values()), path
    for pid in stack.processes():
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        assert not any(secret in line for secret in (*hidden, *kept.values()))
    client: Any = redis.Redis.from_url(stack.state()["redis_url"])
    for key in client.scan_iter(count=1000):
        content = client.dump(key) or b""
        assert not any(secret.encode() in key + content for secret in (*hidden, *kept.values())), key
    for page in ("workers", "tasks", "broker", "api/workers?refresh=1", "worker/gpu-0@here"):
        text = httpx.get(f"{stack.url}/flower/{page}", headers=stack_header(stack), timeout=20).text
        assert not any(secret in text for secret in (*hidden, *kept.values())), page


def test_a_revoked_key_is_refused_within_seconds_and_the_audit_records_it(
    stack: Stack, secrets: dict[str, str]
) -> None:
    header = bearer(secrets["looker"])
    assert httpx.get(f"{stack.url}/api/v1/queues", headers=header).status_code == 200
    assert stack.cli("keys", "revoke", "looker").returncode == 0
    wait_for(lambda: httpx.get(f"{stack.url}/api/v1/queues", headers=header).status_code == 401, 10)
    stack.request("POST", "/api/v1/models/T2V-A14B/pin")
    told = json.loads(stack.cli("audit", "--json").stdout)
    assert [(entry["actor"], entry["act"]) for entry in told[:2]] == [("boss", "pinModel"), ("cli", "key.revoked")]
    made = [entry["subject"] for entry in told if entry["act"] == "key.created"]
    assert made[-len(NAMES) :] == list(reversed(NAMES))
