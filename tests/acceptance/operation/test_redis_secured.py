"""The whole stack on a Redis with TLS, a user with a password, and no more rights than the documentation asks for."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from api.access.rates import Rates
from shared.errors import LimitReached
from shared.messaging.progress import RestingRedis, connect
from shared.settings import load
from tests.conftest import free_port, lacking
from tests.support.places import ROOT
from tests.support.stack import Stack, command_line, environment_of, wait_for

pytestmark = pytest.mark.slow

_PASSWORD = "hush@/:#1"  # with what a URL has to encode
_ENCODED = "hush%40%2F%3A%231"
_DOCS = ROOT / "docs" / "operations.md"


class SecuredRedis:
    """Listens by TLS alone, with a certificate of its own issuer, to the user of the documentation's rule."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None or shutil.which("openssl") is None:
            lacking("no Redis server with TLS (redis-server and openssl in the PATH)")
        assert binary is not None
        self._folder = folder
        self.ca = folder / "ca.pem"
        self.port = free_port()
        self.url = f"rediss://wanworks:{_ENCODED}@127.0.0.1:{self.port}/0"
        self._certify()
        (rule,) = re.findall(r"^user wanworks on >PASSWORD .*$", _DOCS.read_text(), re.MULTILINE)
        users = ("user default off", "user admin on >admin ~* &* +@all", rule.replace("PASSWORD", _PASSWORD))
        (folder / "users.acl").write_text("\n".join(users) + "\n")
        options = ["--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1", "--tls-auth-clients", "no"]
        options += ["--tls-cert-file", "redis.pem", "--tls-key-file", "redis.key", "--tls-ca-cert-file", "ca.pem"]
        options += ["--aclfile", str(folder / "users.acl"), "--save", "", "--dir", str(folder)]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([binary, *options], cwd=folder, stdout=log)
        self.admin = redis.Redis(
            host="127.0.0.1", port=self.port, username="admin", password="admin", ssl=True, ssl_ca_certs=str(self.ca)
        )
        wait_for(self._answers, 10, "for Redis")

    def denied(self) -> list[tuple[str, str]]:
        """What anybody asked for without the right to it."""
        return sorted({(str(entry["reason"]), str(entry["object"])) for entry in self.admin.acl_log(count=100)})

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            lacking("the Redis server in the PATH has no TLS")
        try:
            return bool(self.admin.ping())
        except redis.ConnectionError:
            return False

    def _certify(self) -> None:
        (self._folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        key = ("-newkey", "rsa:2048", "-nodes")
        for words in (
            ("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=an issuer"),
            ("req", *key, "-keyout", "redis.key", "-out", "redis.csr", "-subj", "/CN=redis"),
            ("x509", "-req", "-in", "redis.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
             "-extfile", "names", "-out", "redis.pem"),
        ):  # fmt: skip
            subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[SecuredRedis]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = SecuredRedis(folder)
    yield server
    server.process.kill()
    server.process.wait()


def test_everything_works_over_tls_within_the_documented_rule(
    secured: SecuredRedis, demo_models: Path, tmp_path: Path
) -> None:
    stack = Stack(
        tmp_path / "home",
        demo_models,
        "cpu:1",
        WANWORKS_REDIS_URL=secured.url,
        WANWORKS_REDIS_CA_FILE=str(secured.ca),
        WANWORKS_BEAT="redbeat",
    )
    stack.start()
    try:
        answer = stack.request("POST", "/api/v1/jobs/integrity-check", json={"model_id": "T2V-A14B"})
        assert answer.status_code == 202, answer.text
        check = answer.json()["id"]
        stack.assert_ended_once([stack.wait_status(stack.submit())])
        assert stack.wait_status(check)["status"] == "succeeded"
        with httpx.stream("GET", f"{stack.url}/api/v1/jobs/{stack.submit()}/events", timeout=60) as events:
            seen = "".join(events.iter_text())
        assert "event: progress" in seen
        cancelled = stack.submit(steps=100)
        stack.wait_status(cancelled, ["running"])
        assert stack.request("POST", f"/api/v1/jobs/{cancelled}/cancel").status_code == 202
        assert stack.wait_status(cancelled)["status"] == "cancelled"
        assert stack.request("GET", "/readyz").json() == {"status": "ok", "reasons": []}
        assert "wanworks_jobs_ended_total" in stack.request("GET", "/metrics").text
        told = [*flower_pages(stack), *(command_line(pid) for pid in stack.processes())]
    finally:
        assert stack.stop() == 0
    assert secured.denied() == []
    told += [log.read_text(errors="replace") for log in (stack.home / "logs").iterdir()]
    assert not [text for text in told if _PASSWORD in text or _ENCODED in text]


def flower_pages(stack: Stack) -> list[str]:
    """As text. Flower learns of workers and their queues by asking them, which takes it a moment."""
    environment = environment_of(stack.pid("flower"))
    address = f"http://127.0.0.1:{environment['FLOWER_PORT']}/{environment['FLOWER_URL_PREFIX']}"
    user, _, password = environment["FLOWER_BASIC_AUTH"].partition(":")
    with httpx.Client(auth=(user, password), timeout=30) as client:

        def asked() -> bool:
            workers = client.get(f"{address}/workers?refresh=1").text
            return "gpu-0@here" in workers and "gpu.here.0" in client.get(f"{address}/broker").text

        wait_for(asked, 40, "for Flower to see a worker and its queue", every=0.5)
        return [client.get(f"{address}/{page}").text for page in ("workers", "broker", "tasks", "worker/gpu-0@here")]


def test_a_certificate_of_an_unknown_issuer_is_refused(secured: SecuredRedis) -> None:
    url = load(redis_url=secured.url).redis
    assert url is not None
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        connect(url, 5).ping()
    known = load(redis_url=secured.url, redis_ca_file=secured.ca).redis
    assert known is not None
    assert connect(known, 5).ping()


def test_limits_of_keys_are_counted_within_the_documented_rule(secured: SecuredRedis) -> None:
    url = load(redis_url=secured.url, redis_ca_file=secured.ca).redis
    counting = Rates(RestingRedis(url, timeout=5))
    for _ in range(2):
        counting.count("key", 2)
    with pytest.raises(LimitReached):
        counting.count("key", 2)
    assert secured.denied() == []
    assert secured.admin.keys("wanworks:rate*")
