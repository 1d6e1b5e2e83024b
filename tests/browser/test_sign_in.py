"""The live page of an installation with keys: sign in, hidden actions, sign out."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from shared.access import keys
from shared.access.keys import Limits
from shared.database.engine import Database
from shared.states import Scope
from tests.conftest import WebProcess
from tests.support.jobs import accepted

_WAIT_MS = 60_000


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(color_scheme="light")
    context.set_default_timeout(_WAIT_MS)
    expect.set_options(timeout=_WAIT_MS)
    yield context.new_page()
    context.close()


def test_signing_in_and_out(page: Page, web: WebProcess, database: Database) -> None:
    mine, secret = keys.make(database, "mine", (Scope.READ, Scope.SUBMIT), Limits())
    keys.make(database, "other", (Scope.READ,), Limits())
    own = accepted(database, owner=mine.id, prompt="a paper boat")
    accepted(database, prompt="nobody's mountain")
    url = f"http://127.0.0.1:{web.port}"

    page.goto(url)
    expect(page).to_have_url(f"{url}/login")
    assert not [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    page.get_by_label("API key").fill("wan_not_a_key")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("The API key is unknown")

    page.get_by_label("API key").fill(secret)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{url}/")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    page.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    expect(page.locator("#jobs").get_by_text("a paper boat").first).to_be_visible()
    assert "nobody's mountain" not in page.content()
    expect(page.locator("#jobs").get_by_role("button", name="Cancel").first).to_be_visible()
    page.get_by_role("navigation").get_by_role("link", name="Models").click()
    expect(page.locator("#models").get_by_role("heading", name="T2V-A14B").first).to_be_visible()
    expect(page.locator("#models").get_by_role("button", name="Pin")).to_have_count(0)
    assert page.locator("#flower").count() == 0, "Flower needs the admin scope"
    assert secret not in page.content()
    assert secret not in str(page.context.cookies())

    page.set_viewport_size({"width": 320, "height": 640})
    connection, way_out = (
        one.bounding_box() for one in (page.locator("#connection"), page.get_by_role("button", name="Sign out"))
    )
    assert connection is not None
    assert way_out is not None
    assert connection["x"] + connection["width"] <= way_out["x"], "elements of the header do not overlap"
    assert way_out["height"] <= 36
    assert page.evaluate("document.querySelector('.top').scrollWidth") <= 320

    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{url}/login")
    page.goto(url)
    expect(page).to_have_url(f"{url}/login")
    assert own.owner == mine.id


def test_a_revoked_key_is_redirected_to_the_sign_in(page: Page, web: WebProcess, database: Database) -> None:
    _, secret = keys.make(database, "mine", (Scope.READ,), Limits())
    url = f"http://127.0.0.1:{web.port}"
    page.goto(f"{url}/login")
    page.get_by_label("API key").fill(secret)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    expect(page.get_by_role("link", name="New video")).to_have_count(0)
    keys.revoke(database, "mine")
    expect(page).to_have_url(f"{url}/login", timeout=60_000)
