"""The view of flows in a real browser: its list, one flow as a tree, cancel and retry, by keyboard."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import Watched
from tests.support.stack import QUICK, Stack


def job(name: str, *after: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "params": {**QUICK, "prompt": name, **params}, "depends_on": list(after)}


def test_a_flow_is_listed_shown_cancelled_and_retried_by_keyboard(stack: Stack, open_page: Callable[..., Page]) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    jobs = [job("first", start_after=later), job("second", "first"), job("third", "second")]
    made = stack.request("POST", "/api/v1/flows", json={"name": "a <b>film</b>", "jobs": jobs})
    assert made.status_code == 202, made.text
    page = open_page()
    page.get_by_role("link", name="Flows").focus()
    page.keyboard.press("Enter")
    view = page.locator("#flows")
    expect(view.get_by_role("heading", name="Flows")).to_be_focused()
    line = view.get_by_role("link", name="a <b>film</b>")
    expect(line).to_be_visible()
    expect(view).to_contain_text("2 held, 1 queued")
    line.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"#flow/{made.json()['id']}$"))
    tree = view.get_by_role("list", name="Jobs")
    expect(tree.locator("ul ul")).to_contain_text("third")
    view.get_by_role("button", name="Cancel: a <b>film</b>").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Cancel the flow").focus()
    page.keyboard.press("Enter")
    expect(view.locator("section > p .badge")).to_have_text("cancelled")
    view.get_by_role("button", name="Retry what did not succeed: a <b>film</b>").focus()
    page.keyboard.press("Enter")
    expect(view).to_contain_text("retried once")
    expect(view.locator("section > p .badge")).to_have_text("succeeded", timeout=90_000)
    expect(tree.locator(".badge", has_text="succeeded")).to_have_count(3)
    view.get_by_role("link", name="All flows").focus()
    page.keyboard.press("Enter")
    expect(view.get_by_role("link", name="a <b>film</b>")).to_be_visible()


def test_its_script_is_loaded_only_when_the_view_is_opened(open_page: Callable[..., Page]) -> None:
    page = open_page()
    loaded = "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/flows.js')).length"
    assert page.evaluate(loaded) == 0
    page.evaluate("location.hash = 'flows'")
    expect(page.locator("#flows .body")).not_to_contain_text("Loading")
    assert page.evaluate(loaded) == 1


def test_an_unknown_flow_leads_to_all_flows(open_page: Callable[..., Page], watched: Watched) -> None:
    page = open_page("#flow/nope")
    view = page.locator("#flows")
    expect(view).to_contain_text("No flow has this id. It may have been deleted.")
    expect(view.get_by_role("button", name="Try again")).to_have_count(0)
    view.get_by_role("link", name="Show all flows").click()
    expect(page).to_have_url(re.compile("#flows$"))
    expect(view.get_by_text("No flow has this id")).to_have_count(0)
    assert all("404" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_a_flow_that_ends_before_its_cancel_is_no_error(
    stack: Stack, open_page: Callable[..., Page], watched: Watched
) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = stack.request(
        "POST", "/api/v1/flows", json={"name": "over", "jobs": [job("first", start_after=later)]}
    ).json()
    page = open_page(f"#flow/{made['id']}")
    page.route("**/cancel", lambda route: route.fulfill(status=409, json={"detail": "The flow has already succeeded"}))
    page.locator("#flows").get_by_role("button", name="Cancel: over").click()
    page.get_by_role("button", name="Cancel the flow").click()
    toast = page.locator(".toast", has_text="The flow ended before it could be cancelled.")
    expect(toast).to_be_visible()
    expect(toast).not_to_have_class(re.compile("bad"))
    stack.request("POST", f"/api/v1/flows/{made['id']}/cancel")
    assert all("409" in complaint for complaint in watched.complaints)
    watched.complaints.clear()
