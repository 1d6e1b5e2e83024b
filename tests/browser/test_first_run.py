"""A new installation in a real browser: the guide, its checks, and the download that ends it."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Watched
from tests.browser.test_live_page import submit
from tests.support.stack import Stack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack without any model, which serves its own hub."""
    folder = tmp_path_factory.mktemp("first-run")
    shutil.copytree(demo_models, folder / "home" / "hub", symlinks=True)
    (folder / "models").mkdir()
    stack = Stack(
        folder / "home",
        folder / "models",
        WANWORKS_HUB_URL="",
        WANWORKS_PRESENCE_SECONDS="2",
        WANWORKS_DOWNLOAD_LIMIT_MBPS="4",
    )
    stack.start()
    yield stack
    stack.stop()


def get_job(stack: Stack, kind: str) -> Any:
    """Return the newest job of that type."""
    return stack.request("GET", f"/api/v1/jobs?type={kind}&limit=1").json()["data"][0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_guide_is_accessible_and_says_what_is_missing(browser: Browser, stack: Stack, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})  # type: ignore[arg-type]
    page = Watched(stack).watch(context.new_page())
    page.goto(stack.url)
    guide = page.get_by_role("region", name="Your first video")
    expect(guide.get_by_role("row", name="T2V-A14B", exact=False).first).to_contain_text("yes")
    expect(guide.get_by_role("row", name="T2V-A14B", exact=False).first).to_contain_text("without offloading")
    expect(page.locator(".health")).to_contain_text("The first job of a model downloads it (T2V-A14B: about 4 MB).")
    expect(guide.get_by_role("link", name="Create your first video")).to_be_visible()
    found = Axe().run(page).response["violations"]
    assert not [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_the_best_model_is_downloaded_by_keyboard_and_ends_the_guide(browser: Browser, stack: Stack) -> None:
    context = browser.new_context()
    page = Watched(stack).watch(context.new_page())
    page.goto(stack.url)
    guide = page.get_by_role("region", name="Your first video")
    # The form says the same.
    guide.get_by_role("link", name="Create your first video").click()
    expect(page.locator(".estimate")).to_contain_text("The model (about 4 MB) is downloaded first, automatically.")
    expect(page.locator(".choice").filter(has_text="T2V-A14B").first).to_contain_text("downloads on first use")
    page.go_back()
    get = guide.get_by_role("button", name="Download T2V-A14B (about 4 MB)")
    get.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("is queued")
    expect(page.locator(".health")).to_contain_text("T2V-A14B is being downloaded")
    expect(guide.get_by_text("Every file is checked when it is complete.")).to_be_visible()
    bar = guide.get_by_role("progressbar")
    page.wait_for_function("bar => bar.position > 0.1 && bar.position < 1", arg=bar.element_handle())
    shown = bar.evaluate("bar => [bar.position, parseFloat(bar.nextSibling.textContent) / 100]")
    assert abs(shown[0] - shown[1]) < 0.01, "the bar is as long as its percentage says"
    page.evaluate("""() => {
        window.seen = [];
        new MutationObserver(() => {
            const text = document.querySelector(".first-run")?.innerText ?? "";
            const health = document.querySelector(".health").innerText;
            seen.push(...["Download T2V-A14B", "No node has"].filter((part) => (text + health).includes(part)));
        }).observe(document.body, {subtree: true, childList: true, characterData: true});
    }""")
    expect(guide).to_contain_text("The model is there")
    expect(page.locator(".health.good")).to_contain_text("All is well")
    assert page.evaluate("seen") == [], "it never looked as if the download had not been"
    job = get_job(stack, "download")
    waited = datetime.now(UTC) - datetime.fromisoformat(job["finished_at"])
    assert waited < timedelta(seconds=10), "not only when everything is loaded again"

    guide.get_by_role("link", name="Create your first video").click()
    submit(page, "the first of all")
    page.get_by_role("navigation").get_by_role("link", name="Overview").click()
    expect(page.locator(".videos")).to_contain_text("the first of all")
    expect(guide).to_have_count(0)
    context.close()
