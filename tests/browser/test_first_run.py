"""A new installation in a real browser: the guide, its checks, and the download that ends it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Watched
from tests.support.stack import Stack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack without any model, which serves its own hub."""
    folder = tmp_path_factory.mktemp("first-run")
    shutil.copytree(demo_models, folder / "home" / "hub", symlinks=True)
    (folder / "models").mkdir()
    stack = Stack(folder / "home", folder / "models", WANWORKS_HUB_URL="", WANWORKS_PRESENCE_SECONDS="2")
    stack.start()
    yield stack
    stack.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_guide_is_accessible_and_says_what_is_missing(browser: Browser, stack: Stack, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})  # type: ignore[arg-type]
    page = Watched(stack).watch(context.new_page())
    page.goto(stack.url)
    guide = page.get_by_role("region", name="Your first video")
    expect(guide.get_by_role("row", name="T2V-A14B", exact=False).first).to_contain_text("yes")
    expect(page.locator(".health")).to_contain_text("A job submitted now would wait.")
    found = Axe().run(page).response["violations"]
    assert not [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_the_best_model_is_downloaded_by_keyboard_and_ends_the_guide(browser: Browser, stack: Stack) -> None:
    context = browser.new_context()
    page = Watched(stack).watch(context.new_page())
    page.goto(stack.url)
    guide = page.get_by_role("region", name="Your first video")
    get = guide.get_by_role("button", name="Download")
    get.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("is queued")
    expect(guide).to_be_hidden(timeout=60_000)
    expect(page.locator(".health.good")).to_contain_text("All is well", timeout=60_000)
    context.close()
