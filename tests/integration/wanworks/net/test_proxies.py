"""The environment's proxies: unused for this host's own processes, used for all other requests."""

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from shared.errors import ConfigurationError
from shared.net import outbound
from shared.net.outbound import Allowed, NotFetched
from shared.settings import Settings
from shared.storage import s3
from shared.telemetry import tracing
from tests.conftest import free_port
from tests.integration.shared.net.test_outbound import LOOPBACK, PUBLIC, Place, content, get, names, place, redirect  # noqa: F401
from tests.support.models.repos import make_repo
from tests.support.servers.collector import Collector
from tests.support.servers.faulty_hub import HubProcess
from tests.support.servers.proxy import proxy
from wanworks.client.client import Client, Retry
from wanworks.net.urls import ForbiddenAddress
from workers.models.fetch.client import HubClient

DEAD = "http://user:hidden-word@127.0.0.1:9"
EMPTY_PAGE = b'{"data": [], "has_more": false, "next": null}'


@pytest.fixture(autouse=True)
def _dead_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a desk in a company whose proxy is away, with an exception that client libraries stumble over."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name.upper(), DEAD if name != "no_proxy" else "::1/128")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_command_line_asks_its_own_api_straight(place: Place, host: str) -> None:  # noqa: F811
    place.answers["/api/v1/jobs?limit=20"] = content(EMPTY_PAGE, Content_Type="application/json")
    done = subprocess.run(
        [sys.executable, "-m", "wanworks.cli.main", "jobs", "--json", "--url", place.url(host, "")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"has_more": false' in done.stdout


def test_a_proxy_that_is_away_is_named_by_its_variable_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wanworks.cli.main", "jobs", "--url", "http://api.example"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3
    assert "cannot be reached through the proxy that HTTP_PROXY names" in done.stderr
    assert "hidden-word" not in done.stderr


@pytest.mark.parametrize("login", ["", "me:s%40cret@"])
def test_an_api_on_another_host_is_called_through_the_proxy(
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    login: str,
) -> None:
    place.answers["/api/v1/jobs?limit=20"] = content(EMPTY_PAGE, Content_Type="application/json")
    with proxy({"api.example": ("127.0.0.1", place.port)}) as through:
        monkeypatch.setenv("HTTP_PROXY", through.url.replace("://", f"://{login}"))
        with Client("http://api.example", retry=Retry(seconds=0)) as client:
            assert client.jobs_page()["data"] == []
    assert through.asked == ["GET http://api.example/api/v1/jobs?limit=20 HTTP/1.1"]
    assert through.logins == (["Basic bWU6c0BjcmV0"] if login else [])


def test_a_webhook_goes_through_the_proxy_and_this_hosts_own_does_not(
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.answers["/hook"] = content(b"")

    def send(url: str, allowed: Allowed) -> int:
        return outbound.post(
            url, b"{}", {}, allowed=allowed, seconds=5, resolve=lambda host, _: {"hooks": [PUBLIC]}.get(host, [host])
        )

    with proxy({"hooks": ("127.0.0.1", place.port)}) as through:
        monkeypatch.setenv("HTTP_PROXY", through.url)
        assert send("http://hooks/hook", Allowed()) in (200, 501)  # the place takes no POST
        assert through.asked == ["POST http://hooks/hook HTTP/1.1"]
        assert send(place.url("127.0.0.1", "/hook"), LOOPBACK) in (200, 501)
        assert len(through.asked) == 1


def test_private_addresses_are_refused_before_the_proxy_is_used(
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.answers["/a"] = redirect("http://169.254.169.254/latest")
    place.answers["/b"] = redirect("http://inside/latest")
    with proxy({"outside": ("127.0.0.1", place.port), "inside": ("127.0.0.1", place.port)}) as through:
        monkeypatch.setenv("HTTP_PROXY", through.url)
        resolve = names(outside=[PUBLIC], inside=["10.1.2.3"])
        for path in ("/a", "/b"):
            with pytest.raises(ForbiddenAddress):
                get(f"http://outside{path}", Allowed(), resolve)
        assert through.asked == [f"GET http://outside{path} HTTP/1.1" for path in ("/a", "/b")]


def test_a_proxy_that_cannot_be_read_is_said_in_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:hidden-word@[proxy")
    with pytest.raises(NotFetched, match="HTTP_PROXY: is not a valid proxy address") as caught:
        anyio.run(lambda: outbound.get("http://outside/a.png", allowed=Allowed(), max_bytes=10, seconds=5))
    assert "hidden-word" not in str(caught.value)


def test_only_a_hub_on_another_host_is_called_through_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = make_repo(tmp_path / "served", "maker/model", {"model_index.json": b"{}"})
    hub = HubProcess(tmp_path / "served").start()
    try:
        assert HubClient(hub.url, patience_seconds=5).resolve("maker/model") == sha
        with proxy({"hub.example": ("127.0.0.1", int(hub.url.rpartition(":")[2]))}) as through:
            monkeypatch.setenv("HTTP_PROXY", through.url)
            assert HubClient("http://hub.example", patience_seconds=5).resolve("maker/model") == sha
        assert len(through.asked) == 1
        monkeypatch.setenv("HTTP_PROXY", "nonsense://x")
        with pytest.raises(ConfigurationError, match="HTTP_PROXY"):
            HubClient("http://hub.example", patience_seconds=5).resolve("maker/model")
    finally:
        hub.kill()


def test_traces_reach_a_collector_on_this_host() -> None:
    with Collector() as collector:
        tracing.set_up(Settings(node="here", otlp_endpoint=collector.url), "test")
        tracing.begin("one", {}).end()
        tracing.close()
        assert collector.named("one")


def test_only_a_bucket_on_another_host_is_called_through_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def proxies_of(endpoint: str | None) -> object:
        settings = Settings(home=tmp_path, store_url="s3://videos", store_key_id="id", store_secret="secret")
        return s3.files(settings, endpoint).config_kwargs["proxies"]

    assert proxies_of(f"http://127.0.0.1:{free_port()}") == {}
    assert proxies_of("https://s3.example") == {"https": DEAD}
    assert proxies_of(None) == {"https": DEAD}
    monkeypatch.setenv("NO_PROXY", ".amazonaws.com")
    assert proxies_of(None) == {}
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY: the bucket cannot go through a SOCKS proxy"):
        proxies_of("https://s3.example")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_variable_that_forbids_the_hub_is_the_one_that_is_named(variable: str) -> None:
    code = (
        "from shared.errors import HubUnavailable; from workers.models.fetch.client import HubClient\n"
        "try: HubClient('http://127.0.0.1:9').resolve('a/b')\n"
        "except HubUnavailable as error: print(error)\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**kept, variable: "1"}
    )
    assert said.stdout.startswith(f"{variable} is set: the hub may not be asked"), said
