"""The figures and the order of the queue follow what the page itself does, in a real browser."""

import re
from datetime import timedelta

from playwright.sync_api import expect

from shared import clock
from tests.browser.conftest import Open, Watched
from tests.support.stack import Stack

LONG = {"frames": 81, "steps": 60}
SOON = 8_000  # ms; everything is loaded again every thirty seconds


def test_the_first_messages_count_no_job_twice(open_page: Open, stack: Stack, paused: None, watched: Watched) -> None:
    for number in range(6):
        stack.submit(prompt=f"counted once {number}", frames=81, steps=60)
    page = open_page("#alerts")
    nothing = {"data": [], "has_more": False, "next": None, "looked_at": None}
    page.route(re.compile(r"/api/v1/jobs\?"), lambda route: route.fulfill(json=nothing))
    page.add_init_script("""
        window.counts = new Set();
        setInterval(() => counts.add(document.getElementById("count-jobs")?.dataset.value), 5);
    """)
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")
    by_status = stack.request("GET", "/api/v1/jobs/count").json()["by_status"]
    active = by_status["queued"] + by_status["running"] + by_status["paused"]
    expect(page.locator("#count-jobs")).to_have_attribute("data-value", str(active))
    page.wait_for_timeout(1_500)  # longer than until the counts are read again
    assert {int(one) for one in page.evaluate("[...counts]") if one} <= {0, active}


def test_the_counts_follow_a_job_that_the_page_makes_and_cancels(open_page: Open, stack: Stack, paused: None) -> None:
    """The page knows both from the answers to its own requests, before a message tells them."""
    ended = stack.submit(prompt="made again", **LONG)
    stack.request("POST", f"/api/v1/jobs/{ended}/cancel")
    page = open_page("#jobs?status=cancelled")
    count = page.locator("#count-jobs")
    expect(count).to_be_hidden()
    page.locator(f"[data-job='{ended}']").get_by_role("button", name="Retry:").click()
    expect(count).to_have_text(re.compile("^1 "), timeout=SOON)
    page.get_by_label("Status").select_option("queued")
    page.locator("[data-job]").get_by_role("button", name="Cancel:").click()
    expect(count).to_be_hidden(timeout=5_000 + SOON)  # it can be undone for five seconds
    page.get_by_role("link", name="Overview").click()
    queued = page.locator(".tile", has_text="Queued")
    expect(queued).to_contain_text("queue is empty", timeout=SOON)
    expect(queued.locator(".tile-figure")).to_have_text("0")


def test_the_overview_has_the_order_and_the_marks_of_the_list(open_page: Open, stack: Stack, paused: None) -> None:
    first, second, third = (stack.submit(prompt=f"in order {number}", **LONG) for number in (1, 2, 3))
    page = open_page("#jobs?status=queued")
    page.locator(f"[data-job='{second}'] a.job-link").focus()
    page.keyboard.press("Alt+ArrowUp")
    expect(page.locator("#toasts")).to_contain_text("Priority high: in order 2")
    page.locator(f"[data-job='{third}'] a.job-link").focus()
    page.keyboard.press("Alt+Home")
    expect(page.locator("#toasts")).to_contain_text("Moved to the front: in order 3")
    page.get_by_role("link", name="Overview").click()
    rows = page.locator(".now li")
    expect(rows.locator(".title")).to_have_text(["in order 3", "in order 2", "in order 1"], timeout=SOON)
    expect(rows.nth(0)).to_contain_text("at the front")
    expect(rows.nth(1)).to_contain_text("high")
    assert stack.job(first)["status"] == "queued"


def test_a_job_that_may_not_start_yet_is_counted_alike_everywhere_and_its_time_is_readable(
    open_page: Open, stack: Stack, paused: None
) -> None:
    start = (clock.now() + timedelta(hours=30)).replace(minute=5, second=7, microsecond=123_000)
    job = stack.submit(prompt="much later", start_after=clock.iso(start), **LONG)
    page = open_page("#overview", locale="en-GB", timezone_id="UTC")
    now = page.locator("#overview ul.now")
    when = f"It may start from {start.day} {start:%b}, {start:%H}:05"
    expect(now).to_contain_text(when)
    expect(now).not_to_contain_text(re.compile(r"\dT\d"))
    queued = page.locator(".tile", has_text="Queued").locator(".tile-figure")
    expect(queued).to_have_text("1")
    assert stack.request("GET", "/api/v1/dashboard/metrics").json()["queued_jobs"] == 1
    page.evaluate(f"location.hash = 'job/{job}'")
    expect(page.get_by_role("dialog")).to_contain_text(when)
