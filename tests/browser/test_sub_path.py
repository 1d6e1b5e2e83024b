"""Test everything under a path of a reverse proxy: the page in a real browser, links, the client, Flower."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Watched
from tests.support.servers.reverse_proxy import PATH, reverse_proxy
from tests.support.stack import QUICK, Stack
from wanworks.client.client import Client, video_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("sub-path") / "home", demo_models, WANWORKS_PUBLIC_PATH=f"{PATH}/")
    stack.start()
    made = stack.cli("keys", "create", "boss", "--scope", "admin")
    stack.key = made.stdout.strip()
    yield stack
    stack.stop()


@pytest.fixture(scope="module")
def job_id(stack: Stack) -> str:
    return str(stack.wait_status(stack.submit())["id"])


@pytest.fixture(params=["with a slash", "without a slash"])
def url(request: pytest.FixtureRequest, stack: Stack) -> Iterator[str]:
    parts = urlsplit(stack.url)
    with reverse_proxy((str(parts.hostname), int(parts.port or 0)), strips=request.param == "with a slash") as url:
        yield url


def test_the_page_works_under_the_path(browser: Browser, stack: Stack, job_id: str, url: str) -> None:
    watched = Watched(stack)
    watched.host = urlsplit(url).netloc
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = watched.watch(context.new_page())
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(url)  # without its slash
    assert page.url == f"{url}/login"
    page.locator("input[name=key]").fill(stack.key or "")
    page.locator("button").click()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    assert {cookie["path"] for cookie in context.cookies()} == {f"{PATH}/"}
    page.goto(f"{url}/#job/{job_id}")
    video = page.locator("dialog video, video").first
    expect(video).to_be_visible()
    assert page.evaluate("async (one) => (await fetch(one.src)).status", video.element_handle()) in (200, 206)
    page.goto(f"{url}/docs")
    expect(page.locator("#operations-jobs-createGeneration")).to_be_visible()
    page.goto(f"{url}/")
    assert not watched.complaints
    assert not failed
    page.locator(".sign-out button").click()
    expect(page).to_have_url(f"{url}/login")
    context.close()
    assert sockets
    assert all(urlsplit(one).path == f"{PATH}/api/v1/dashboard/ws" for one in sockets)
    # Requests that were sent while signing out may be refused.
    assert all("401" in complaint for complaint in watched.complaints)
    assert not [url for url in failed if "/api/" not in url]
    assert all(urlsplit(one.url).path.startswith(PATH) for one in watched.requests if one.url.startswith("http"))


def test_links_and_locations_contain_the_path(stack: Stack, job_id: str, url: str) -> None:
    host = url.removesuffix(PATH)
    headers = {"Authorization": f"Bearer {stack.key}"}
    with httpx.Client(base_url=host, headers=headers, timeout=30) as client:
        job = client.get(f"{PATH}/api/v1/jobs/{job_id}").json()
        for artifact in job["result"]["artifacts"]:
            assert artifact["url"].startswith(f"{PATH}/api/v1/")
            assert hashlib.sha256(client.get(artifact["url"]).content).hexdigest() == artifact["sha256"]
        events = client.get(f"{PATH}/api/v1/jobs/{job_id}/events").text
        assert f'"url":"{PATH}/api/v1/jobs/{job_id}/artifacts/video.mp4"' in events
        link = client.post(f"{PATH}/api/v1/jobs/{job_id}/artifacts/video.mp4/link").json()["url"]
        assert httpx.get(host + link).status_code == 200
        made = client.post(f"{PATH}/api/v1/jobs/generation", json={**QUICK, "steps": 2})
        assert client.get(made.headers["location"]).json()["id"] == made.json()["id"]
        video = client.post(f"{PATH}/v1/videos", json={"prompt": "a cat", "size": "64x64", "num_frames": 9})
        assert client.get(video.headers["location"]).json()["id"] == video.json()["id"]
        assert client.get(f"{PATH}/openapi.json").json()["servers"] == [{"url": PATH}]
        assert client.get(f"{PATH}/api/v1/dashboard/flower").json()["url"] == f"{PATH}/flower/"
        assert client.get(PATH).headers.get("location", f"{PATH}/") in (f"{PATH}/", f"{PATH}/login")
        flower = client.get(f"{PATH}/flower?x=1")
        assert (flower.status_code, flower.headers["location"]) == (308, f"{PATH}/flower/?x=1")
        page = client.get(f"{PATH}/flower/", follow_redirects=True)
        assert page.status_code == 200
        assert f'href="{PATH}/flower/' in page.text
    with httpx.Client(
        base_url=stack.url, headers=headers
    ) as straight:  # the same, without the proxy, as health checks ask
        assert straight.get("/readyz").status_code == 200
        assert straight.get("/flower").headers["location"] == f"{PATH}/flower/"


def test_the_client_works_with_the_public_and_the_internal_url(
    stack: Stack, job_id: str, url: str, tmp_path: Path
) -> None:
    for place, address in enumerate((url, stack.url)):
        with Client(address, api_key=stack.key) as client:
            video = video_of(client.job(job_id))
            assert video is not None
            to = tmp_path / f"{place}.mp4"
            client.download(video, to)
            assert hashlib.sha256(to.read_bytes()).hexdigest() == video["sha256"]
            assert httpx.get(client.address(client.share(video)["url"])).status_code == 200
