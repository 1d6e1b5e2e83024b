"""Use the list of jobs in a real browser: its order, search, pages, selection, and moving jobs by keys."""

import re
import uuid
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from shared import clock
from shared.database.engine import Database
from shared.database.tables import Job
from tests.browser.conftest import Open, Watched
from tests.browser.test_accessibility import serious
from tests.browser.test_live_page import later, submit
from tests.support.stack import Stack

# The second key comes before the browser has announced the address that the first one has set.
TWO_KEYS = """() => {
    const dialog = document.querySelector("dialog[open]");
    for (const key of ["ArrowLeft", "ArrowRight"]) {
        dialog.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    }
}"""
LONG = {"frames": 81, "steps": 60}


def test_queued_jobs_are_in_order_and_moved_by_keys(open_page: Open, stack: Stack, paused: None) -> None:
    first, second, third = (stack.submit(prompt=f"in line {number}", **LONG) for number in (1, 2, 3))
    page = open_page("#jobs?status=queued")
    rows = page.locator("#jobs tbody tr")
    expect(rows).to_have_count(3)
    page.locator(f"[data-job='{third}'] a.job-link").focus()
    page.keyboard.press("Alt+ArrowUp")
    expect(page.locator("#toasts")).to_contain_text("Priority high: in line 3")
    expect(rows.first).to_have_attribute("data-job", third)
    assert stack.job(third)["priority"] == "high"
    page.locator("#toasts").get_by_role("button", name="Undo").click()
    expect(page.locator("#toasts")).to_contain_text("Priority normal: in line 3")
    expect(rows.last).to_have_attribute("data-job", third)
    page.locator(f"[data-job='{third}'] a.job-link").focus()
    page.keyboard.press("Alt+ArrowUp")
    expect(rows.first).to_have_attribute("data-job", third)
    page.locator(f"[data-job='{second}'] a.job-link").focus()
    page.keyboard.press("Alt+Home")
    expect(page.locator("#toasts")).to_contain_text("Moved to the front: in line 2")
    expect(rows.first).to_have_attribute("data-job", second)
    expect(rows.last).to_have_attribute("data-job", first)


def test_a_job_at_the_front_can_be_taken_back(open_page: Open, stack: Stack, paused: None) -> None:
    first, second, third = (stack.submit(prompt=f"there and back {number}", **LONG) for number in (1, 2, 3))
    page = open_page("#jobs?status=queued")
    rows, toasts = page.locator("#jobs tbody tr"), page.locator("#toasts")
    link = page.locator(f"[data-job='{third}'] a.job-link")
    link.focus()
    page.keyboard.press("Alt+Home")
    expect(rows.first).to_have_attribute("data-job", third)
    toasts.get_by_role("button", name="Undo").click()
    expect(toasts).to_contain_text("Back to its place: there and back 3")
    expect(rows.last).to_have_attribute("data-job", third)
    assert stack.job(third)["moved_to_front_at"] is None
    link.focus()
    page.keyboard.press("Alt+Home")
    expect(rows.first).to_have_attribute("data-job", third)
    page.keyboard.press("Alt+ArrowDown")
    expect(rows.last).to_have_attribute("data-job", third)
    expect(page.locator(f"[data-job='{third}']")).not_to_contain_text("at the front")
    assert stack.job(third)["priority"] == "normal"
    page.keyboard.press("Alt+Home")
    expect(rows.first).to_have_attribute("data-job", third)
    drop(page, third, second)
    expect(rows.last).to_have_attribute("data-job", third)
    link.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Move to the front").click()
    expect(dialog.locator(".dialog-body")).to_contain_text("at the front")
    dialog.get_by_label("Priority").select_option("low")
    expect(toasts).to_contain_text("Priority low: there and back 3. It stays at the front")
    dialog.get_by_role("button", name="Back to its place").click()
    expect(toasts).to_contain_text("Back to its place: there and back 3")
    expect(dialog.locator(".dialog-body")).not_to_contain_text("at the front")
    assert [stack.job(one)["queue_position"] for one in (first, second, third)] == [0, 1, 2]


def test_a_moved_or_cancelled_row_keeps_the_focus(open_page: Open, stack: Stack, paused: None) -> None:
    jobs = [stack.submit(prompt=f"keeps its place {number}", **LONG) for number in range(1, 13)]
    page = open_page("#jobs?status=queued")
    rows = page.locator("#jobs tbody tr")
    expect(rows).to_have_count(12)
    moved = page.locator(f"[data-job='{jobs[5]}']")
    link = moved.locator("a.job-link")
    link.focus()
    for key, place in (
        ("ArrowUp", rows.first),
        ("ArrowDown", rows.nth(5)),
        ("ArrowDown", rows.last),
        ("Home", rows.first),
    ):
        page.keyboard.press(f"Alt+{key}")
        expect(place).to_have_attribute("data-job", jobs[5])
        expect(link).to_be_focused()
        expect(link).to_be_in_viewport()

    moved.get_by_role("button", name="Cancel:").focus()
    page.keyboard.press("Enter")
    undo = moved.get_by_role("button", name="Undo the cancel:")
    expect(undo).to_be_focused()
    page.keyboard.press("Enter")  # as a key that is held: it takes nothing back
    expect(undo).to_be_focused()
    page.wait_for_timeout(500)
    page.keyboard.press("Enter")
    expect(moved.get_by_role("button", name="Cancel:")).to_be_focused()
    expect(page.locator(".toast", has_text="Cancelling")).to_have_count(0)
    page.wait_for_timeout(500)
    page.keyboard.press("Enter")
    expect(moved).to_have_count(0, timeout=30_000)  # it is sent, and the row leaves the list of what is queued
    expect(rows.first.locator("a.job-link")).to_be_focused()
    assert stack.job(jobs[5])["status"] == "cancelled"


def test_the_focus_goes_from_a_button_that_is_gone_to_the_link_of_its_row(
    open_page: Open, stack: Stack, paused: None
) -> None:
    job = stack.submit(prompt="cancelled by keyboard", **LONG)
    page = open_page("#jobs?order=newest")
    row = page.locator(f"[data-job='{job}']")
    row.get_by_role("button", name="Cancel:").focus()
    page.keyboard.press("Enter")
    expect(row.locator(".badge")).to_have_text("cancelled", timeout=30_000)
    expect(row.locator("a.job-link")).to_be_focused()


def test_a_filter_that_is_changed_keeps_the_focus(open_page: Open) -> None:
    page = open_page("#jobs")
    status = page.get_by_label("Status")
    status.focus()
    status.select_option("failed")
    expect(page).to_have_url(re.compile("status=failed$"))
    expect(page.get_by_role("link", name="Clear", exact=True)).to_be_visible()
    expect(status).to_be_focused()


def test_a_job_is_moved_by_dragging(open_page: Open, stack: Stack, paused: None) -> None:
    job = stack.submit(prompt="dragged along", **LONG)
    page = open_page("#jobs?status=queued")
    row = page.locator(f"[data-job='{job}']")
    row.locator(".when").hover()
    page.mouse.down()
    page.mouse.move(600, 500, steps=4)
    target = page.locator("[data-drop='low']")
    target.hover()
    page.mouse.move(602, 502)
    target.hover()
    page.mouse.up()
    expect(page.locator("#toasts")).to_contain_text("Priority low: dragged along")
    assert stack.job(job)["priority"] == "low"


def drop(page: Page, job: str, onto: str) -> None:
    """Drag the row of a job onto the row of another one."""
    page.locator(f"[data-job='{job}'] .when").hover()
    page.mouse.down()
    page.mouse.move(600, 500, steps=4)
    expect(page.locator(".drop-zones")).to_be_visible()  # rows take a job once it is dragged
    target = page.locator(f"[data-job='{onto}'] .when")
    target.hover()
    page.mouse.move(*(part + 2 for part in centre(target)))
    expect(page.locator(f"[data-job='{onto}']")).to_have_class(re.compile("under"))
    page.mouse.up()


def centre(target: Locator) -> tuple[float, float]:
    box = target.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_job_is_dropped_on_the_row_of_another(open_page: Open, stack: Stack, paused: None) -> None:
    low = stack.submit(prompt="dropped on a row", priority="low", **LONG)
    first, other, last = (stack.submit(prompt=f"dropped on, {number}", **LONG) for number in (1, 2, 3))
    page = open_page("#jobs?status=queued")
    toasts = page.locator("#toasts")
    drop(page, last, other)
    expect(toasts).to_contain_text("Its priority is normal already.")
    drop(page, low, other)
    expect(toasts).to_contain_text("Priority normal: dropped on a row")
    assert stack.job(low)["priority"] == "normal"
    rows = page.locator("#jobs tbody tr")
    top = rows.first.get_attribute("data-job")
    assert top is not None
    drop(page, last, top)
    expect(toasts).to_contain_text("Moved to the front: dropped on, 3")
    expect(rows.first).to_have_attribute("data-job", last)
    assert stack.job(first)["moved_to_front_at"] is None


def test_a_cancel_that_is_not_answered_says_which_job_and_can_be_sent_again(
    open_page: Open, stack: Stack, watched: Watched, paused: None
) -> None:
    job = stack.submit(prompt="still there", **LONG)
    page = open_page("#jobs?status=queued")
    watched.away = True
    cancels = f"**/api/v1/jobs/{job}/cancel"
    page.route(cancels, lambda route: route.abort("connectionrefused"))
    page.locator(f"[data-job='{job}']").get_by_role("button", name="Cancel:").click()
    toast = page.locator(".toast.bad")
    expect(toast).to_contain_text("Not cancelled: still there. The server does not respond.")
    page.unroute(cancels)
    toast.get_by_role("button", name="Try again").click()
    stack.wait_status(job)
    assert stack.job(job)["status"] == "cancelled"


def test_a_job_that_was_retried_leads_to_the_new_one(open_page: Open, stack: Stack, paused: None) -> None:
    job = stack.submit(prompt="made twice", **LONG)
    stack.request("POST", f"/api/v1/jobs/{job}/cancel")
    page = open_page("#jobs?search=made twice")
    row = page.locator(f"[data-job='{job}']")
    row.get_by_role("button", name="Retry:").click()
    row.get_by_role("link", name="See the retry:").click()
    again = page.url.rpartition("/")[2]
    assert stack.job(again)["retry_of"] == job
    page.goto(f"{stack.url}/#job/{job}")
    page.reload()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("link", name="See the retry:")).to_have_attribute("href", f"#job/{again}")
    stack.request("DELETE", f"/api/v1/jobs/{again}")
    expect(dialog.get_by_role("button", name="Retry:")).to_be_visible()


def test_a_retry_whose_answer_was_lost_makes_one_job(
    open_page: Open, stack: Stack, watched: Watched, paused: None
) -> None:
    job = stack.submit(prompt="answered to nobody", **LONG)
    stack.request("POST", f"/api/v1/jobs/{job}/cancel")
    page = open_page("#jobs?status=cancelled")
    watched.away = True
    retries = f"**/api/v1/jobs/{job}/retry"

    def lose(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    page.route(retries, lose)
    page.locator(f"[data-job='{job}']").get_by_role("button", name="Retry:").click()
    toast = page.locator(".toast.bad")
    expect(toast).to_contain_text("Not retried: answered to nobody.")
    page.unroute(retries)
    toast.get_by_role("button", name="Try again").click()
    expect(page.locator("#toasts")).to_contain_text("A new job with the same settings is queued.")
    found = stack.request("GET", "/api/v1/jobs?search=answered to nobody").json()["data"]
    assert len([one for one in found if one["retry_of"] == job]) == 1


def test_a_batch_that_succeeded_in_part_says_how_far(open_page: Open, stack: Stack) -> None:
    held = {**LONG, "start_after": later()}
    params = [{"model_id": "T2V-A14B", "prompt": "half of a batch", **one} for one in ({"frames": 9, "steps": 2}, held)]
    batch = stack.request("POST", "/api/v1/batches", json={"jobs": [{"params": one} for one in params]}).json()
    jobs = stack.request("GET", f"/api/v1/jobs?batch_id={batch['id']}").json()["data"]
    for job in jobs:
        if job["start_after"]:
            stack.request("POST", f"/api/v1/jobs/{job['id']}/cancel")
    for job in jobs:
        stack.wait_status(job["id"])
    page = open_page(f"#jobs?batch_id={batch['id']}")
    expect(page.locator(".batch .badge")).to_have_text("1 of 2 succeeded")


def test_selected_jobs_are_cancelled_together_and_a_row_opens_its_job(
    open_page: Open, stack: Stack, paused: None
) -> None:
    jobs = [stack.submit(prompt=f"chosen {number}", **LONG) for number in (1, 2)]
    page = open_page("#jobs?search=chosen")
    expect(page.locator("#jobs tbody tr")).to_have_count(2)
    page.get_by_label("Select all jobs on this page").check()
    chosen = page.get_by_role("group", name="Selected jobs")
    expect(chosen).to_contain_text("2 selected")
    chosen.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("dialog", name="Cancel 2 jobs?").get_by_role(
        "button", name=re.compile(r"^Cancel [0-9,]+ jobs?$")
    ).click()
    expect(page.locator("#toasts")).to_contain_text("2 jobs cancelled")
    assert [stack.job(job)["status"] for job in jobs] == ["cancelled", "cancelled"]
    page.locator(f"[data-job='{jobs[0]}'] .when").click()
    expect(page).to_have_url(re.compile(f"#job/{jobs[0]}$"))
    page.get_by_role("button", name="Previous job in the list").click()
    expect(page).to_have_url(re.compile(f"#job/{jobs[1]}$"))
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile(f"#job/{jobs[0]}$"))
    page.evaluate(TWO_KEYS)
    expect(page).to_have_url(re.compile(f"#job/{jobs[0]}$"))
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("#jobs\\?search=chosen$"))


def test_cancelling_can_be_undone_for_five_seconds(open_page: Open, stack: Stack, paused: None) -> None:
    job = stack.submit(prompt="spared", **LONG)
    page = open_page("#jobs?status=queued")
    page.locator(f"[data-job='{job}']").get_by_role("button", name="Cancel:").click()
    page.locator("#toasts").get_by_role("button", name="Undo").click()
    expect(page.locator(f"[data-job='{job}']").get_by_role("button", name="Cancel:")).to_have_text("Cancel")
    assert stack.job(job)["status"] == "queued"
    page.locator(f"[data-job='{job}']").get_by_role("button", name="Cancel:").click()
    page.goto("about:blank")  # leaving the page sends it
    stack.wait_status(job)
    assert stack.job(job)["status"] == "cancelled"


def test_several_cancels_are_one_message_and_undone_together(open_page: Open, stack: Stack, paused: None) -> None:
    jobs = [stack.submit(prompt=f"spared together {number}", **LONG) for number in (1, 2, 3)]
    page = open_page("#jobs?status=queued")
    toast = page.locator(".toast")
    for job in jobs:
        page.locator(f"[data-job='{job}']").get_by_role("button", name="Cancel:").click()
    expect(toast).to_have_count(1)
    expect(toast).to_contain_text("Cancelling 3 jobs")
    page.evaluate("location.hash = 'alerts'")
    toast.get_by_role("button", name="Undo").click()
    expect(toast).to_have_count(0)
    assert [stack.job(job)["status"] for job in jobs] == ["queued"] * 3


@pytest.mark.parametrize("width", [1400, 1200, 1024, 390])
def test_a_row_that_is_being_cancelled_keeps_its_buttons_inside(
    open_page: Open, stack: Stack, paused: None, width: int
) -> None:
    job = stack.submit(prompt="kept inside", **LONG)
    page = open_page("#jobs?status=queued", viewport={"width": width, "height": 900})
    row = page.locator(f"[data-job='{job}']")
    row.get_by_role("button", name="Cancel:").click()
    expect(row.get_by_role("button", name="Undo the cancel:")).to_have_text("Undo")
    expect(row.locator(".state")).to_contain_text("Cancelling…")
    for part in row.locator(".actions > *").all():
        at, around = part.bounding_box(), row.bounding_box()
        assert at is not None
        assert around is not None
        assert around["x"] <= at["x"]
        assert at["x"] + at["width"] <= around["x"] + around["width"] - 4
    page.locator("#toasts").get_by_role("button", name="Undo").click()


def test_the_end_of_a_job_that_the_user_cancelled_is_no_error(open_page: Open, stack: Stack, paused: None) -> None:
    page = open_page("#new")
    page.evaluate("""() => {
        window.said = new Set();
        const toasts = document.getElementById("toasts");
        const add = (one) => said.add(`${one.className} ${one.innerText}`);
        const note = () => toasts.querySelectorAll(".toast").forEach(add);
        new MutationObserver(note).observe(toasts, { childList: true, subtree: true, characterData: true });
    }""")
    submit(page, "cancelled by its own user")
    job = page.locator("[data-submitted]").first.get_attribute("data-submitted") or ""
    page.evaluate("location.hash = 'jobs?status=queued'")
    page.locator(f"[data-job='{job}']").get_by_role("button", name="Cancel:").click()
    expect(page.locator("#toasts")).to_contain_text("Cancelled")
    stack.wait_status(job)
    page.wait_for_timeout(1500)  # in which the message used to come
    said = page.evaluate("[...said]")
    assert not [text for text in said if "bad" in text or "Your job" in text], said

    page.evaluate("location.hash = 'new'")  # cancelled elsewhere: it is said, and is no error
    submit(page, "cancelled by another")
    expect(page.locator("[data-submitted]")).to_have_count(2)
    stack.request(
        "POST", f"/api/v1/jobs/{page.locator('[data-submitted]').first.get_attribute('data-submitted')}/cancel"
    )
    toast = page.locator(".toast").filter(has_text="Your job was cancelled: cancelled by another")
    expect(toast).to_be_visible()
    expect(toast).not_to_have_class(re.compile("bad"))


def test_a_range_is_selected_with_shift(open_page: Open, stack: Stack, paused: None) -> None:
    for number in range(1, 6):
        stack.submit(prompt=f"one of a range {number}", **LONG)
    page = open_page("#jobs?status=queued")
    boxes = page.locator("#jobs tbody .pick input")
    expect(boxes).to_have_count(5)

    def checked() -> list[bool]:
        page.wait_for_timeout(150)  # the next drawing
        return [box.is_checked() for box in boxes.all()]

    boxes.nth(1).click()
    boxes.nth(3).click(modifiers=["Shift"])
    assert checked() == [False, True, True, True, False]
    assert page.evaluate("String(getSelection())") == ""
    expect(page.get_by_role("group", name="Selected jobs")).to_contain_text("3 selected")
    boxes.nth(2).click()
    assert checked() == [False, True, False, True, False]
    page.get_by_role("group", name="Selected jobs").get_by_role("button", name=re.compile("selection")).click()
    boxes.nth(0).focus()
    page.keyboard.press("Space")
    boxes.nth(2).focus()
    page.keyboard.press("Shift+Space")
    assert checked() == [True, True, True, False, False]
    page.keyboard.press("Shift+ArrowDown")
    assert checked() == [True, True, True, True, False]
    expect(boxes.nth(3)).to_be_focused()
    page.locator("#jobs tbody .job-link").nth(3).focus()
    page.keyboard.press("Shift+ArrowDown")
    assert checked() == [True] * 5
    expect(page.locator("#jobs tbody .job-link").nth(4)).to_be_focused()


def test_at_most_two_messages_are_shown_and_confirmations_end_with_the_view(open_page: Open) -> None:
    page = open_page("#jobs")
    toast = page.locator(".toast")
    show = """async ([text, kind, options]) => {
        const main = document.querySelector("script[src*=main]").src;
        const { showMessage } = await import(main.replace("main.js", "base/dialogs.js"));
        const actions = options.undo ? [{ text: "Undo", act: () => {} }] : [];
        showMessage(text, kind, { milliseconds: Infinity, actions });
    }"""
    for text, kind, undo in (("first", "good", False), ("wrong", "bad", False), ("second", "good", False)):
        page.evaluate(show, [text, kind, {"undo": undo}])
    expect(toast.locator("span:first-child")).to_have_text(["wrong", "second"])
    page.evaluate(show, ["second", "good", {}])
    expect(toast).to_have_count(2)
    page.evaluate(show, ["can be undone", "info", {"undo": True}])
    for number in (3, 4, 5):
        page.evaluate(show, [f"number {number}", "good", {}])
    expect(toast.locator("span:first-child")).to_have_text(["can be undone", "number 5"])
    page.evaluate("location.hash = 'alerts'")
    expect(toast.locator("span:first-child")).to_have_text(["can be undone"])


def hit(page: Page, css: str) -> bool:
    """Return whether a click on the middle of the last such element that is shown would hit it."""
    found: bool = page.evaluate(
        """css => {
            const shown = [...document.querySelectorAll(css)].filter((one) => one.checkVisibility()).at(-1);
            const { x, y, width, height } = shown.getBoundingClientRect();
            return shown.contains(document.elementFromPoint(x + width / 2, y + height / 2));
        }""",
        css,
    )
    return found


MESSAGE = """async () => {
    const main = document.querySelector("script[src*=main]").src;
    const { showMessage } = await import(main.replace("main.js", "base/dialogs.js"));
    const text = "a long message of several lines ".repeat(8);
    for (const one of ["first", "second"]) showMessage(`${one}: ${text}`, "bad", { milliseconds: Infinity });
}"""


def test_an_open_menu_is_above_messages(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="below a message", start_after=later())
    page = open_page("#overview", viewport={"width": 390, "height": 844})
    page.evaluate(MESSAGE)
    expect(page.locator(".toast")).to_have_count(2)
    page.locator(".side .more summary").click()
    for name in ("API docs", "Devices", "Flows"):
        expect(page.locator(".side .more").get_by_role("link", name=name)).to_be_visible()
    assert hit(page, ".side .more li:last-child a")
    assert hit(page, ".side .more li:first-child a")
    page.keyboard.press("Escape")
    page.locator("h1:visible").click()
    assert hit(page, ".toast .quiet"), "without a menu, the message is above"

    page.evaluate("location.hash = 'jobs?order=newest'")
    page.locator(f"[data-job='{job}'] .pick input, [data-job='{job}'] input").first.check()
    page.locator(".selection-bar details summary").click()
    assert hit(page, ".selection-bar .menu-body .button:last-child")
    page.evaluate(f"location.hash = 'job/{job}'")
    page.get_by_role("dialog").locator(".copies summary").click()
    assert hit(page, ".copies li:last-child button")
    stack.request("DELETE", f"/api/v1/jobs/{job}")


def test_the_error_of_a_form_ends_with_its_view(open_page: Open, stack: Stack, watched: Watched) -> None:
    page = open_page("#alerts")
    toast = page.locator(".toast.bad")
    page.route("**/acknowledge", lambda route: route.fulfill(status=500, json={"detail": "Not now."}))
    page.get_by_role("button", name="Acknowledge").first.click()
    expect(toast).to_contain_text("Not now.")
    page.evaluate("location.hash = 'jobs'")
    expect(toast).to_have_count(0)
    watched.complaints = [one for one in watched.complaints if "500" not in one]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_set_into_a_row_is_told_apart_from_a_hovered_and_a_selected_one(
    open_page: Open, stack: Stack, scheme: str
) -> None:
    job = stack.submit(prompt="grey on grey", start_after=later())
    page = open_page("#jobs?order=newest", color_scheme=scheme)
    row = page.locator(f"#jobs tr[data-job='{job}']")
    contrast = """row => {
        const light = (element) => {
            const { backgroundColor } = getComputedStyle(element);
            const parts = backgroundColor.match(/[0-9.]+/g).slice(0, 3).map((one) => one / 255);
            const [r, g, b] = parts.map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
        };
        return [".badge", ".frame"].map((css) => {
            const both = [light(row), light(row.querySelector(css))];
            return Math.max(...both) / Math.min(...both);
        });
    }"""
    row.hover()
    assert min(row.evaluate(contrast)) > 1.1, row.evaluate(contrast)
    row.locator("input[type=checkbox]").check()
    expect(row).to_have_class(re.compile("selected"))
    page.locator("h1:visible").hover()
    assert min(row.evaluate(contrast)) > 1.1, row.evaluate(contrast)
    assert not serious(page)
    stack.request("DELETE", f"/api/v1/jobs/{job}")


def test_a_paused_queue_is_named_above_the_list_and_resumed_there(open_page: Open, stack: Stack, paused: None) -> None:
    stack.submit(prompt="held", **LONG)
    page = open_page("#jobs")
    line = page.locator("#jobs").get_by_text("The queue is paused.", exact=True)
    expect(line).to_be_visible()
    page.locator("#jobs").get_by_role("button", name="Resume the queue").click()
    expect(line).to_have_count(0)
    assert stack.request("GET", "/api/v1/queues").json()["pauses"] == []


def test_a_batch_offers_the_videos_that_there_are(open_page: Open, stack: Stack, paused: None) -> None:
    params = {"model_id": "T2V-A14B", "prompt": "of a batch", "resolution": "64x64", "frames": 9, "steps": 2}
    made = stack.request("POST", "/api/v1/batches", json={"jobs": [{"params": params}] * 2}).json()
    batch, jobs = made["id"], [job["id"] for job in made["jobs"]]
    page = open_page(f"#jobs?batch_id={batch}")
    section = page.locator("#jobs .batch")
    expect(section).to_contain_text("no video to download yet")
    expect(section.get_by_role("link", name="Download")).to_have_count(0)
    stack.request("POST", f"/api/v1/jobs/{jobs[0]}/cancel")
    stack.request("POST", "/api/v1/queues/resume", json={})
    stack.wait_status(jobs[1])
    archive = section.get_by_role("link", name="Download 1 of 2 as zip")
    expect(archive).to_have_attribute("href", f"/api/v1/batches/{batch}/artifacts.zip")


def test_a_retry_leads_to_the_new_job(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="tried again", start_after=clock.iso(clock.now() + timedelta(hours=1)))
    stack.request("POST", f"/api/v1/jobs/{job}/cancel")
    page = open_page("#jobs?status=cancelled")
    page.locator(f"[data-job='{job}']").get_by_role("button", name="Retry:").click()
    page.locator("#toasts").get_by_role("link", name="Open").click()
    expect(page.get_by_role("dialog", name="tried again")).to_be_visible()
    assert not page.url.endswith(job)


def id_at(moment: datetime, number: int) -> str:
    """Return an id of a job that was created then: the server finds jobs of a time by their ids."""
    milliseconds = int(moment.timestamp() * 1000)
    return str(uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (0b10 << 62) | number))


@pytest.mark.slow
def test_ten_thousand_jobs_have_right_counts_pages_and_search(open_page: Open, stack: Stack, watched: Watched) -> None:
    before = stack.request("GET", "/api/v1/jobs/count").json()["count"]
    done = stack.job(stack.submit(prompt="a pattern"))
    stack.wait_status(done["id"])
    database = Database(f"sqlite:///{stack.home / 'wanworks.db'}")
    with database.write() as session:
        pattern = session.get(Job, done["id"])
        assert pattern is not None
        values = {
            name: getattr(pattern, name) for name in Job.model_fields if name not in ("id", "params", "idempotency_key")
        }
        when = clock.now() - timedelta(days=2)
        rows = [
            {
                **values, "id": id_at(when, number), "created_at": when, "finished_at": when, "result": None,
                "params": {**pattern.params, "prompt": f"stored number {number}"},
            }
            for number in range(10_000)
        ]  # fmt: skip
        session.bulk_insert_mappings(Job, rows)  # type: ignore[arg-type]
    database.close()
    try:
        page = open_page("#jobs?order=newest&size=100")
        expect(page.locator("#jobs")).to_contain_text(f"{before + 10_001:,} jobs, newest first", timeout=60_000)
        expect(page.locator("#jobs tbody tr")).to_have_count(100)
        chosen = page.get_by_role("group", name="Selected jobs")
        page.locator("#jobs tbody .pick input").first.check()
        expect(chosen).to_contain_text("1 selected")
        page.get_by_role("button", name="Next").click()
        expect(page.locator(".pager")).to_contain_text("page 2 of 10")
        page.go_back()
        expect(page.locator(".pager")).to_contain_text("page 1 of 10")
        expect(chosen).to_have_count(0)
        page.get_by_role("button", name="Next").click()
        expect(page.locator(".pager")).to_contain_text("page 2 of 10")
        assert "after=" in page.url
        page.reload()
        expect(page.locator(".pager")).to_contain_text("page 2 of 10")
        page.go_back()
        expect(page.locator(".pager")).to_contain_text("page 1 of 10")
        page.get_by_label("Search").fill("number 9876 stored")
        expect(page.locator("#jobs tbody tr")).to_have_count(1)
        expect(page).to_have_url(re.compile("search=number"))
        expect(page.locator("#jobs")).to_contain_text("1 found among the newest")
        expect(page.locator("#jobs .bulk")).to_contain_text("works with filters, not with a search")
        page.get_by_label("Search").fill("stored number")
        expect(page.locator("#jobs")).to_contain_text("100 found among the newest")
        page.get_by_role("link", name="Look further").click()
        expect(page.locator("#jobs")).to_contain_text("100 found among the next")
        session_of = page.context.new_cdp_session(page)
        session_of.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 300, "downloadThroughput": 50_000, "uploadThroughput": 20_000},
        )
        page.get_by_role("link", name="Clear").click()
        assert "No jobs yet" not in (page.locator("#jobs").text_content() or ""), "loading is not empty"
        expect(page.locator("#jobs tbody tr")).to_have_count(25)
    finally:
        removing = stack.request(
            "POST",
            "/api/v1/jobs/bulk",
            json={"action": "delete", "filter": {"created_before": clock.iso(when + timedelta(hours=1))}},
        )
        stack.wait_status(removing.json()["job_id"], seconds=200)  # the other tests count what is there


def test_the_list_says_what_is_missing(open_page: Open, stack: Stack) -> None:
    page = open_page("#jobs?search=nobody+has+written+this")
    expect(page.locator("#jobs")).to_contain_text("No job matches these filters.")


def test_actions_that_fit_no_selected_job_are_disabled(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="ended and selected")
    stack.wait_status(job)
    page = open_page("#jobs?status=succeeded")
    page.locator(f"[data-job='{job}']").get_by_role("checkbox").check()
    chosen = page.get_by_role("group", name="Selected jobs")
    for name in ("Cancel", "Retry", "Move to the front"):
        expect(chosen.get_by_role("button", name=name, exact=True)).to_be_disabled()
    expect(chosen.get_by_role("button", name="Priority…")).to_be_disabled()
    expect(chosen.get_by_role("button", name="Delete")).to_be_enabled()


def test_undo_by_key_says_so_and_returns_to_where_the_cancel_was(open_page: Open, stack: Stack, paused: None) -> None:
    job = stack.submit(prompt="cancelled by key", **LONG)
    page = open_page("#jobs?status=queued")
    cancel = page.locator(f"#jobs [data-job='{job}']").get_by_role("button", name="Cancel: cancelled by key")
    cancel.focus()
    page.keyboard.press("Enter")
    undo = page.locator("#toasts").get_by_role("button", name="Undo")
    expect(undo).to_be_visible()
    undo.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("The cancel is undone.")
    expect(cancel).to_be_focused()
    assert stack.job(job)["status"] == "queued"


@pytest.mark.parametrize("width", [1400, 1024, 390])
def test_the_priority_of_several_jobs_is_changed_and_undone(
    open_page: Open, stack: Stack, paused: None, width: int
) -> None:
    wanted = {stack.submit(prompt=f"of several {width}", priority=each): each for each in ("low", "normal", "high")}
    page = open_page("#jobs?status=queued", viewport={"width": width, "height": 900})
    expect(page.locator("#jobs tbody tr")).to_have_count(len(wanted))
    if width == 1400:
        page.get_by_label("Select all jobs on this page").check()
    else:
        page.get_by_role("button", name="Select all 3").click()
        expect(page.get_by_role("button", name="Select none")).to_be_visible()
    chosen = page.get_by_role("group", name="Selected jobs")
    if width < 1100:
        chosen.get_by_text("More").click()
    chosen.get_by_role("button", name="Priority…").click()
    asked = page.get_by_role("dialog", name="Priority of 3 jobs")
    expect(asked.get_by_role("button", name="critical")).to_be_focused()
    asked.get_by_role("button", name="high").click()
    expect(page.locator("#toasts")).to_contain_text("Priority high: 2 jobs")
    assert {stack.job(job)["priority"] for job in wanted} == {"high"}
    expect(chosen).to_contain_text("3 selected")
    page.locator("#toasts").get_by_role("button", name="Undo").click()
    expect(page.locator("#toasts")).to_contain_text("Priority as before: 2 jobs")
    assert {job: stack.job(job)["priority"] for job in wanted} == wanted


def test_a_job_that_begins_and_ends_keeps_the_columns_and_rows(open_page: Open, stack: Stack, paused: None) -> None:
    job = stack.submit(prompt="in its place", **LONG)
    page = open_page("#jobs?order=newest", viewport={"width": 1400, "height": 900})
    page.wait_for_load_state("networkidle")  # the batches above the list come last
    row = page.locator(f"[data-job='{job}']")
    state, before = row.locator(".state"), row.bounding_box()
    at = state.bounding_box()
    stack.request("POST", "/api/v1/queues/resume", json={})
    for word in ("running", "succeeded"):
        expect(row.locator(".badge")).to_have_text(word)
        assert (row.bounding_box(), state.bounding_box()) == (before, at), word


def test_the_line_of_a_running_job_begins_with_the_time_that_is_left(open_page: Open) -> None:
    page = open_page("#jobs")
    text = page.evaluate("""async () => {
        const main = document.querySelector("script[src*=main]").src;
        const { progressText } = await import(main.replace("main.js", "base/parts.js"));
        const progress = { percent: 8, phase: "denoising", step: 11, steps: 100, eta_seconds: 53 };
        const at = (seconds) => Date.now() - seconds * 1000;
        const decoding = { percent: 90, phase: "decoding", step: 1, steps: 5, eta_seconds: 3 };
        const { state } = await import(main.replace("main.js", "base/state.js"));
        const waiting = { status: "queued", model_id: "A model", progress: { phase: "waiting_for_model" } };
        const waits = [progressText(waiting)];
        state.jobs.set("d", { id: "d", type: "download", status: "running", model_id: "A model", progress });
        waits.push(progressText(waiting));
        state.jobs.delete("d");
        return [
            progressText({ status: "running", progress }),
            progressText({ status: "running", progress, progressAt: at(20.5) }),
            progressText({ status: "running", progress: decoding, progressAt: at(27) }),
            ...waits,
        ].map((text) => text.replaceAll("\\u00a0", " "));
    }""")
    assert text == [
        "8 % · 53 s left · denoising, step 11 of 100",
        "8 % · 33 s left · denoising, step 11 of 100",
        "90 % · longer than estimated · decoding, part 1 of 5",
        "waiting for its model",
        "downloading its model first",
    ]


@pytest.mark.parametrize("width", [1024, 768])
def test_between_phone_and_desktop_a_title_has_room(open_page: Open, stack: Stack, width: int) -> None:
    job = stack.submit(prompt="a title with several words that wants some room")
    stack.wait_status(job)
    page = open_page("#jobs?order=newest", viewport={"width": width, "height": 900})
    title = page.locator(f"[data-job='{job}'] .title").bounding_box()
    assert title is not None
    assert title["width"] > 250


def test_filters_are_folded_on_a_phone(open_page: Open) -> None:
    page = open_page("#jobs?status=failed", viewport={"width": 390, "height": 844}, has_touch=True)
    expect(page.get_by_label("Status")).to_be_hidden()
    button = page.get_by_role("button", name="Filters (1)")
    expect(button).to_have_attribute("aria-expanded", "false")
    button.click()
    expect(page.get_by_label("Status")).to_have_value("failed")
    page.get_by_label("Views").get_by_text("More").click()
    page.get_by_label("Views").get_by_role("link", name="Devices").click()
    expect(page.get_by_role("heading", level=1, name="Devices")).to_be_visible()


def test_an_unknown_job_and_an_unknown_address_are_said(open_page: Open, watched: Watched) -> None:
    page = open_page("#job/00000000-0000-7000-8000-000000000000")
    dialog = page.get_by_role("dialog", name="Job not found")
    expect(dialog).to_contain_text("No job has this id. It may have been deleted.")
    dialog.get_by_role("link", name="Show all jobs").click()
    expect(dialog).to_be_hidden()
    page.evaluate("location.hash = 'zzz'")
    expect(page).to_have_url(re.compile("#overview$"))
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_contain_text("favourite")
    assert all("404" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_deleting_everything_names_what_is_lost_and_wants_a_word(open_page: Open, stack: Stack) -> None:
    stack.wait_status(stack.submit(prompt="to be kept"))
    page = open_page("#jobs")
    sent = []

    def answer(route: Route) -> None:
        body = route.request.post_data_json
        if body.get("dry_run"):
            route.continue_()
            return
        sent.append(body)
        route.fulfill(json={"changed": 0, "skipped": {}, "matched": 0, "job_id": None})

    page.route("**/api/v1/jobs/bulk", answer)
    menu = page.locator("#jobs .bulk")
    menu.get_by_text("Act on all that match").click()
    menu.get_by_role("button", name="Delete all").click()
    dialog = page.get_by_role("dialog", name=re.compile(r"^Delete [\d,]+ jobs?\?$"))
    expect(dialog).to_contain_text("also from favourites and collections")
    expect(dialog).to_contain_text("This cannot be undone.")
    erase = dialog.get_by_role("button", name=re.compile(r"^Delete [\d,]+ jobs?$"))
    erase.click()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Type “delete” to confirm").fill("delet")
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    assert sent == []
    dialog.get_by_label("Type “delete” to confirm").fill("delete")
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    page.wait_for_timeout(200)
    assert sent == [{"action": "delete", "filter": {"all": True}}]
    page.get_by_label("Status").select_option("succeeded")
    menu.get_by_text("Act on all that match").click()
    menu.get_by_role("button", name="Delete all").click()
    expect(dialog).to_contain_text("This cannot be undone.")
    expect(dialog.get_by_role("textbox")).to_have_count(0)
    dialog.get_by_role("button", name="Keep").click()


def test_a_video_has_the_same_actions_from_the_list_as_from_the_gallery(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="marked from the list")
    stack.wait_status(job)
    actions = []
    for view in ("gallery", "jobs"):
        page = open_page(f"#{view}")
        page.locator(f"#{view} [data-job='{job}'] a").first.click()
        dialog = page.get_by_role("dialog", name="marked from the list")
        expect(dialog.get_by_role("button", name="Favourite")).to_be_visible()
        expect(dialog.get_by_role("button", name="Add to collection…")).to_be_visible()
        actions.append(dialog.get_by_role("group", name="Actions").inner_text())
    assert actions[0] == actions[1]
    star = dialog.get_by_role("button", name="Favourite")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    page.locator(f"#jobs [data-job='{job}'] a").first.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    stack.request("DELETE", f"/api/v1/jobs/{job}/favourite")


def test_a_failed_job_offers_the_same_first_in_the_list_and_in_its_dialog(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="cancelled to be made again", start_after=clock.iso(clock.now() + timedelta(hours=1)))
    stack.request("POST", f"/api/v1/jobs/{job}/cancel")
    page = open_page("#jobs?status=cancelled")
    row = page.locator(f"[data-job='{job}']")
    expect(row.locator(".actions")).to_have_text("RetryReuse")
    row.locator("a.job-link").click()
    made_again = page.get_by_role("dialog").get_by_role("group", name="Actions").locator(":scope > *")
    expect(made_again.nth(0)).to_have_text("Retry")
    expect(made_again.nth(0)).to_have_class(re.compile("primary"))
    expect(made_again.nth(1)).to_have_text("Reuse")


def test_an_order_that_cannot_be_is_not_offered(open_page: Open) -> None:
    page = open_page("#jobs")
    order = page.get_by_label("Order")
    expect(order.locator("option")).to_have_text(["queue order", "newest first", "oldest first"])
    page.get_by_label("Search").fill("boat")
    expect(order.locator("option")).to_have_text(["newest first", "oldest first"])


@pytest.mark.parametrize(("width", "most"), [(1400, 60), (1024, 60), (390, 70)])
def test_the_filters_are_one_row_also_with_the_link_that_clears_them(open_page: Open, width: int, most: int) -> None:
    page = open_page("#jobs?status=failed", viewport={"width": width, "height": 900})
    expect(page.get_by_role("link", name="Clear", exact=True)).to_be_visible()
    box = page.locator(".job-filters").bounding_box()
    assert box is not None
    assert box["height"] < most + 10


def test_escape_ends_the_selection(open_page: Open, stack: Stack, paused: None) -> None:
    job = stack.submit(prompt="selected for a moment", **LONG)
    page = open_page("#jobs?status=queued")
    bar = page.get_by_role("group", name="Selected jobs")
    box = page.locator(f"[data-job='{job}']").get_by_role("checkbox")
    box.check()
    expect(bar).to_be_visible()
    page.locator("#jobs .bulk summary").click()
    page.keyboard.press("Escape")  # closes the menu, and no more
    expect(page.locator("#jobs .bulk")).not_to_have_attribute("open", "")
    expect(bar).to_be_visible()
    bar.get_by_role("button", name="Delete").click()
    page.keyboard.press("Escape")  # closes the dialog, and no more
    expect(page.get_by_role("dialog", name="Delete this job?")).to_have_count(0)
    expect(bar).to_be_visible()
    page.keyboard.press("Escape")
    expect(bar).to_have_count(0)
    expect(box).not_to_be_checked()
    box.check()
    box.press("Escape")
    expect(bar).to_have_count(0)
    expect(box).to_be_focused()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_dialog_of_a_waiting_job_moves_it(open_page: Open, stack: Stack, paused: None, width: int) -> None:
    first, second = (stack.submit(prompt=f"moved in its dialog {number}", **LONG) for number in (1, 2))
    page = open_page("#jobs?status=queued", viewport={"width": width, "height": 844})
    page.locator(f"[data-job='{second}'] a.job-link").click()
    actions = page.get_by_role("dialog").get_by_role("group", name="Actions")
    priority = actions.get_by_label("Priority")
    expect(priority).to_have_value("normal")
    priority.focus()
    priority.select_option("high")
    expect(page.locator("#toasts")).to_contain_text("Priority high: moved in its dialog 2")
    expect(priority).to_have_value("high")
    expect(priority).to_be_focused()
    assert stack.job(second)["priority"] == "high"
    for part in actions.locator(":scope > *").all():
        box = part.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width
    page.keyboard.press("Escape")
    page.locator(f"[data-job='{first}'] a.job-link").click()
    front = actions.get_by_role("button", name="Move to the front")
    front.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("Moved to the front: moved in its dialog 1")
    expect(actions.get_by_role("button", name="Back to its place")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#jobs tbody tr").first).to_have_attribute("data-job", first)


def test_what_cannot_be_moved_offers_no_move(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="has its end")
    stack.wait_status(job)
    page = open_page(f"#job/{job}")
    actions = page.get_by_role("dialog").get_by_role("group", name="Actions")
    expect(actions.get_by_role("link", name="Download")).to_be_visible()
    expect(actions.get_by_role("button", name="Move to the front")).to_have_count(0)
    expect(actions.get_by_label("Priority")).to_have_count(0)


def test_a_row_that_can_be_dragged_shows_a_grip(open_page: Open, stack: Stack, paused: None) -> None:
    job = stack.submit(prompt="has a grip", **LONG)
    page = open_page("#jobs?status=queued")
    row = page.locator(f"[data-job='{job}']")
    grip = row.locator(".grip")
    expect(grip).to_have_css("opacity", "0")
    row.locator(".when").hover()
    expect(grip).to_have_css("opacity", "1")
    expect(grip).to_have_css("cursor", "grab")
    page.mouse.move(5, 5)
    row.locator("a.job-link").focus()
    expect(grip).to_have_css("opacity", "1")
    grip.click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    grip.hover()
    page.mouse.down()
    page.mouse.move(600, 500, steps=4)
    target = page.locator("[data-drop='low']")
    target.hover()
    page.mouse.move(602, 502)
    target.hover()
    page.mouse.up()
    expect(page.locator("#toasts")).to_contain_text("Priority low: has a grip")


def test_a_batch_is_named_by_its_prompt_and_its_jobs_show_their_seeds(
    open_page: Open, stack: Stack, paused: None
) -> None:
    params = {"model_id": "T2V-A14B", "resolution": "64x64", "frames": 9, "steps": 2}

    def batch(*prompts: str) -> list[str]:
        jobs = [{"params": {**params, "prompt": prompt, "seed": 70 + at}} for at, prompt in enumerate(prompts)]
        made = stack.request("POST", "/api/v1/batches", json={"jobs": jobs})
        assert made.status_code == 202, made.text
        return [made.json()["id"], *(job["id"] for job in made.json()["jobs"])]

    same, mixed = batch("a heron at dawn", "a heron at dawn"), batch("a heron", "an otter")
    alone = stack.submit(prompt="alone")
    page = open_page("#jobs")
    page.locator("#jobs .batches summary").click()
    lines = page.locator("#jobs .batches li")
    expect(lines.get_by_role("link", name="a heron at dawn", exact=True)).to_be_visible()
    expect(lines.get_by_role("link", name="a heron and others", exact=True)).to_be_visible()
    expect(page.locator(f"[data-job='{same[1]}'] .about")).to_contain_text("seed 70")
    expect(page.locator(f"[data-job='{same[2]}'] .about")).to_contain_text("seed 71")
    expect(page.locator(f"[data-job='{alone}'] .about")).not_to_contain_text("seed")
    lines.get_by_role("link", name="a heron and others", exact=True).click()
    expect(page.get_by_role("region", name="a heron and others")).to_contain_text("2 jobs")
    page.evaluate(f"location.hash = 'jobs?batch_id={same[0]}'")
    expect(page.get_by_role("region", name="a heron at dawn")).to_contain_text("2 jobs")

    stack.request("POST", "/api/v1/queues/resume", json={})
    for job in (*same[1:], *mixed[1:]):
        stack.wait_status(job)
    page.evaluate("location.hash = 'gallery'")
    expect(page.locator(f"#gallery [data-job='{same[1]}'] .cell-about")).to_contain_text("seed 70 ·")
    expect(page.locator(f"#gallery [data-job='{mixed[1]}'] .cell-about")).not_to_contain_text("seed")


def test_dates_in_the_wrong_order_are_named(open_page: Open, stack: Stack) -> None:
    page = open_page("#jobs?from=2026-05-02&to=2026-05-01")
    expect(page.locator("#jobs")).to_contain_text("“From” is after “To”: no day is between them.")
    page.evaluate("location.hash = 'gallery?from=2026-05-02&to=2026-05-01'")
    expect(page.locator("#gallery")).to_contain_text("“From” is after “To”: no day is between them.")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("status=bogus", "There is no status “bogus”."),
        ("type=bogus", "There is no type of jobs “bogus”."),
        ("from=yesterday", "“yesterday” is not a date."),
        ("batch_id=bogus", "There is no batch “bogus”."),
        ("after=bogus", "There is no page “bogus”."),
    ],
)
def test_an_unknown_filter_of_the_address_is_named(open_page: Open, watched: Watched, query: str, said: str) -> None:
    page = open_page(f"#jobs?{query}")
    view = page.locator("#jobs")
    expect(view).to_contain_text(said)
    expect(view.get_by_role("button", name="Try again")).to_have_count(0)
    view.get_by_role("link", name="Show all jobs").click()
    expect(page).to_have_url(re.compile("#jobs$"))
    expect(view.get_by_text(said)).to_have_count(0)
    assert all("422" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_an_unknown_collection_of_the_address_leads_to_all_videos(open_page: Open, watched: Watched) -> None:
    page = open_page("#gallery?collection=bogus")
    view = page.locator("#gallery")
    view.get_by_role("link", name="Show all videos").click()
    expect(page).to_have_url(re.compile("#gallery$"))
    expect(view.get_by_text("No video can match")).to_have_count(0)
    assert all("422" in complaint or "404" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


@pytest.mark.parametrize("is_still", [False, True])
def test_a_video_plays_when_its_dialog_opens(open_page: Open, stack: Stack, is_still: bool) -> None:
    job = stack.submit(prompt="plays on opening")
    stack.wait_status(job)
    page = open_page(f"#job/{job}", reduced_motion="reduce" if is_still else "no-preference")
    video = page.get_by_role("dialog").locator("video")
    expect(video).to_be_visible()
    page.wait_for_function("() => document.querySelector('dialog video').readyState >= 1")
    if is_still:
        page.wait_for_timeout(500)
        assert video.evaluate("video => [video.paused, video.currentTime]") == [True, 0]
    else:
        page.wait_for_function("() => document.querySelector('dialog video').currentTime > 0")
        assert video.evaluate("video => [video.paused, video.muted, video.loop]") == [False, True, True]


def test_a_retried_job_says_what_it_repeats_and_the_message_follows_it(open_page: Open, stack: Stack) -> None:
    loras = stack.home / "loras"
    loras.mkdir(exist_ok=True)
    (loras / "torn.safetensors").write_bytes(b"no LoRA")
    failed = stack.submit(prompt="fails each time", loras=[{"name": "torn"}])
    stack.wait_status(failed)
    assert stack.job(failed)["status"] == "failed"
    page = open_page(f"#job/{failed}")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Retry:").click()
    expect(page).not_to_have_url(re.compile(failed))
    expect(dialog).to_contain_text(f"A new job, repeated from {failed}.")
    toast = page.locator(".toast")
    expect(toast).to_have_text(re.compile("^The new job failed, too."))
    expect(toast).to_have_count(1)
    expect(toast).to_have_class(re.compile("bad"))
    dialog.get_by_role("link", name=failed).click()
    expect(page).to_have_url(re.compile(f"#job/{failed}$"))
    expect(dialog).not_to_contain_text("A new job, repeated from")


def test_a_cancel_that_comes_too_late_is_no_error(
    open_page: Open, stack: Stack, paused: None, watched: Watched
) -> None:
    job = stack.submit(prompt="quicker than its cancel")
    page = open_page("#jobs?order=newest")
    row = page.locator(f"[data-job='{job}']")
    row.get_by_role("button", name="Cancel:").click()
    expect(row.get_by_role("button", name="Undo the cancel:")).to_be_visible()
    stack.request("POST", "/api/v1/queues/resume", json={})
    late = page.locator(".toast", has_text="It finished before it could be cancelled: quicker than its cancel")
    expect(late).to_be_visible()
    expect(late).not_to_have_class(re.compile("bad"))
    expect(page.locator(".toast", has_text="Cancelling")).to_have_count(0)
    assert stack.job(job)["status"] == "succeeded"

    # If the page has not heard of the end yet, the server refuses the cancel, and the message is the same.
    page.route("**/cancel", lambda route: route.fulfill(status=409, json={"detail": "The job has already succeeded"}))
    other = stack.submit(prompt="ended unseen", start_after=clock.iso(clock.now() + timedelta(hours=1)))
    page.locator(f"[data-job='{other}']").get_by_role("button", name="Cancel:").click()
    late = page.locator(".toast", has_text="before it could be cancelled: ended unseen")
    expect(late).to_be_visible()
    expect(late).not_to_have_class(re.compile("bad"))
    page.locator(f"[data-job='{other}']").get_by_role("checkbox").check()
    page.get_by_role("group", name="Selected jobs").get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".toast", has_text="0 jobs cancelled, 1 job ended before")).not_to_have_class(re.compile("bad"))
    page.unroute("**/cancel")
    stack.request("POST", f"/api/v1/jobs/{other}/cancel")
    assert all("409" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


@pytest.mark.parametrize(("width", "column"), [(1400, True), (1024, False), (390, False)])
def test_how_long_a_job_ran_is_seen_at_every_width(open_page: Open, stack: Stack, width: int, column: bool) -> None:
    job = stack.submit(prompt="ran for a while")
    stack.wait_status(job)
    row = open_page("#jobs", viewport={"width": width, "height": 844}).locator(f"[data-job='{job}']")
    expect(row.locator(".took")).to_be_visible(visible=column)
    expect(row.locator(".when .ran")).to_be_visible(visible=not column)
    expect(row.locator(".when .ran")).to_contain_text(re.compile(r" · ran \d"))
