"""Use every view by keyboard alone, in both colour schemes at three widths.

With 10,000 jobs and 5,000 videos stored, on a slow line, and with the server lost and back. Each key is pressed in the
browser, and what a key is meant for is reached by Tab.
"""

import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlmodel import select

from shared import clock
from shared.cluster import alerts
from shared.cluster.alerts import Cause, Changes
from shared.database.engine import Database
from shared.database.tables import Job
from shared.jobs import ids
from tests.browser.conftest import Watched
from tests.browser.test_accessibility import serious
from tests.browser.test_flows import job
from tests.support.stack import Stack
from tests.support.videos import stored

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WIDTHS = {1400: 900, 1024: 768, 390: 844}
JOBS, VIDEOS = 10_000, 5_000
SLOW_LINE = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 90_000}
MOST_TABS = 400


@pytest.fixture(scope="module")
def filled(demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with one CPU device and everything stored."""
    stack = Stack(tmp_path_factory.mktemp("widths") / "home", demo_models, WANWORKS_ALERT_SECONDS="3600")
    stack.start()
    database = Database(f"sqlite:///{stack.home / 'wanworks.db'}")
    stored(database, [f"stored number {number}" for number in range(VIDEOS)])
    with database.write() as session:
        pattern = session.exec(select(Job).limit(1)).one()
        values = {name: getattr(pattern, name) for name in Job.model_fields if name not in ("id", "params", "result")}
        rows = [
            {
                **values, "id": ids.new_id(), "status": "cancelled", "result": None,
                "params": {**pattern.params, "prompt": f"given up number {number}"},
            }
            for number in range(JOBS - VIDEOS)
        ]  # fmt: skip
        session.bulk_insert_mappings(Job, rows)  # type: ignore[arg-type]
    database.close()
    yield stack
    stack.stop()


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WIDTHS)
def page(browser: Browser, filled: Stack, scheme: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page on a slow line, watched for errors and other hosts."""
    width = request.param
    watched = Watched(filled)
    context = browser.new_context(
        viewport={"width": width, "height": WIDTHS[width]},
        color_scheme=scheme,
        reduced_motion="reduce",  # type: ignore[arg-type]
    )
    opened = watched.watch(context.new_page())
    opened.watched = watched  # type: ignore[attr-defined]
    context.new_cdp_session(opened).send("Network.emulateNetworkConditions", SLOW_LINE)
    opened.goto(f"{filled.url}/#overview")
    expect(opened.locator("#connection")).to_contain_text("live")
    yield opened
    context.close()
    assert not watched.complaints


def reach(page: Page, wanted: Locator) -> None:
    """Press Tab until the element has the focus, and see that it is not hidden."""
    expect(wanted).to_be_attached()
    for _ in range(MOST_TABS):
        if wanted.evaluate("element => element === document.activeElement"):
            assert wanted.evaluate("element => element.checkVisibility()")
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} is not reached by {MOST_TABS} times Tab")


def go(page: Page, name: str) -> None:
    """Open a view by the navigation, which on a phone has some views behind "More"."""
    page.evaluate("document.activeElement.blur()")
    views = page.get_by_role("navigation", name="Views")
    more = views.locator("summary")
    if more.is_visible() and name in ("Flows", "Models", "Devices"):
        reach(page, more)
        page.keyboard.press("Enter")
    reach(page, views.locator(f"a:visible[href='#{'new' if name == 'New video' else name.lower()}']"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name=name, exact=True)).to_be_focused()


def sound(page: Page) -> None:
    """See that nothing scrolls sideways, and that axe finds nothing serious."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not serious(page)


def press(page: Page, wanted: Locator, key: str = "Enter") -> None:
    reach(page, wanted)
    page.keyboard.press(key)


def test_everything_is_done_by_keyboard(page: Page, filled: Stack) -> None:
    for step in (_videos, _gallery, _jobs, _flows, _models, _devices, _alerts, _pauses, _outage):
        step(page, filled)


def _videos(page: Page, stack: Stack) -> None:
    """Make a video, watch it, and open it."""
    go(page, "New video")
    page.keyboard.press("Tab")
    prompt = page.get_by_label("Prompt", exact=True)
    reach(page, prompt)
    page.keyboard.press("Control+a")
    page.keyboard.type("by keyboard alone")
    press(page, page.locator("#make-form details.advanced > summary"))
    for label, value in (("Frames", "9"), ("Steps", "2")):
        field = page.get_by_label(label, exact=True)
        page.evaluate("document.activeElement.blur()")
        reach(page, field)
        page.keyboard.press("Control+a")
        page.keyboard.type(value)
    sound(page)
    page.keyboard.press("Control+Enter")
    made = page.locator("[data-submitted]").first
    expect(made).to_contain_text("by keyboard alone")
    expect(made).to_contain_text("succeeded")
    press(page, made.get_by_role("link").first)
    shown = page.get_by_role("dialog")
    expect(shown.locator("video")).to_be_visible()
    sound(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def _gallery(page: Page, stack: Stack) -> None:
    go(page, "Gallery")
    count = page.locator("#gallery p[role=status]")
    expect(count).to_contain_text("videos")
    search = page.get_by_label("Search in prompts")
    reach(page, search)
    page.keyboard.type("number 4990")
    expect(page.locator(".cell")).to_have_count(1)
    star = page.locator(".cell .star")
    starred = star.get_attribute("aria-pressed")
    press(page, page.locator(".cell-link"), "f")
    expect(star).to_have_attribute("aria-pressed", "false" if starred == "true" else "true")
    page.keyboard.press("x")
    bar = page.get_by_role("group", name="Selected videos")
    expect(bar).to_contain_text("1 selected")
    sound(page)
    page.keyboard.press("Escape")
    expect(bar).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("stored number 4990")
    page.keyboard.press("Escape")
    expect(page.locator(".cell-link")).to_be_focused()
    page.evaluate("document.activeElement.blur()")
    press(page, page.get_by_role("link", name="Clear", exact=True))
    expect(count).to_contain_text(re.compile(r"5,0\d\d videos"))
    page.evaluate("document.activeElement.blur()")
    reach(page, page.locator(".cell-link").first)
    for _ in range(3):
        page.keyboard.press("PageDown")
    expect(page.locator(".cell-link:focus")).to_be_visible()
    assert page.evaluate("scrollY") > 0
    assert page.locator(".cell").count() <= 300
    sound(page)


def _jobs(page: Page, stack: Stack) -> None:
    stack.request("POST", "/api/v1/queues/pause", json={"reason": "a test"})
    own = uuid.uuid4().hex
    waiting = [stack.submit(prompt=f"in line {number} {own}") for number in ("first", "second")]
    try:
        go(page, "Jobs")
        rows = page.locator("#jobs tbody tr")
        expect(rows).to_have_count(25)
        expect(page.locator("#jobs")).to_contain_text(re.compile(r"10,0\d\d jobs"))
        last = page.locator(f"[data-job='{waiting[1]}'] a.job-link")
        press(page, last, "Alt+Home")
        expect(rows.first).to_have_attribute("data-job", waiting[1])
        sound(page)
        press(page, page.get_by_role("button", name="Next", exact=True))
        expect(page.locator(".pager")).to_contain_text("page 2 of")
        page.evaluate("document.activeElement.blur()")
        search = page.locator("#jobs").get_by_label("Search")
        reach(page, search)
        page.keyboard.type(f"second {own}")
        expect(rows).to_have_count(1)
        press(page, rows.locator("a.job-link"))
        shown = page.get_by_role("dialog")
        expect(shown).to_contain_text("in line second")
        sound(page)
        press(page, shown.get_by_role("button", name=re.compile("^Cancel")).first)
        press(page, page.locator("#toasts").get_by_role("button", name="Undo"))
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert stack.job(waiting[1])["status"] == "queued"
    finally:
        stack.request("POST", "/api/v1/jobs/bulk", json={"action": "cancel", "filter": {"status": "queued"}})
        stack.request("POST", "/api/v1/queues/resume", json={})


def _flows(page: Page, stack: Stack) -> None:
    later = clock.iso(clock.now() + timedelta(hours=1))
    name = f"a film of {later}"
    jobs = [job("first", start_after=later), job("second", "first")]
    made = stack.request("POST", "/api/v1/flows", json={"name": name, "jobs": jobs})
    assert made.status_code == 202, made.text
    go(page, "Flows")
    view = page.locator("#flows")
    press(page, view.get_by_role("link", name=name))
    expect(view.get_by_role("list", name="Jobs")).to_contain_text("second")
    sound(page)
    press(page, view.get_by_role("button", name=f"Cancel: {name}"))
    press(page, page.get_by_role("dialog").get_by_role("button", name="Cancel the flow"))
    expect(view.locator("section > p .badge")).to_have_text("cancelled")


def _models(page: Page, stack: Stack) -> None:
    go(page, "Models")
    compared = page.get_by_role("region", name="Compare")
    press(page, compared.get_by_role("button", name="Compare"))
    expect(compared.get_by_role("row", name=re.compile("^Average time"))).to_be_visible()
    advised = page.get_by_role("region", name="Recommend a model")
    reach(page, advised.get_by_label("Use"))
    page.keyboard.type("a story told in text")
    page.keyboard.press("Enter")
    expect(advised).to_contain_text(re.compile("A clear choice|A likely choice|Close: "))
    sound(page)


def _devices(page: Page, stack: Stack) -> None:
    go(page, "Devices")
    state = page.locator("#devices .badge").first
    press(page, page.get_by_role("button", name="Pause here / CPU 0"))
    press(page, page.get_by_role("dialog").get_by_role("button", name="Pause"))
    expect(state).to_have_text("paused")
    sound(page)
    press(page, page.get_by_role("button", name="Resume here / CPU 0"))
    expect(state).to_have_text("idle")


def _alerts(page: Page, stack: Stack) -> None:
    database = Database(f"sqlite:///{stack.home / 'wanworks.db'}")
    title = f"Something happened at {clock.iso(clock.now())}"
    cause = Cause("test", title, "warning", title, "Details", "Look at it.", False)
    alerts.apply(database, Changes(opened=(cause,)), clock.now(), deliver=False)
    database.close()
    go(page, "Alerts")
    alert = page.locator("[data-alert]").filter(has_text=title)
    field = alert.get_by_label("Your name")
    reach(page, field)
    page.keyboard.press("Control+a")
    page.keyboard.type("Ada")
    sound(page)
    page.keyboard.press("Enter")
    expect(alert).to_contain_text("Acknowledged by Ada")


def _pauses(page: Page, stack: Stack) -> None:
    go(page, "Overview")
    section = page.locator(".health + section")
    press(page, section.get_by_role("button", name="Pause the queue"))
    press(page, page.get_by_role("dialog").get_by_role("button", name="Pause the queue"))
    expect(page.locator(".health")).to_contain_text("The queue is paused")
    sound(page)
    page.evaluate("document.activeElement.blur()")
    press(page, page.get_by_role("button", name="Resume the queue"))
    expect(section).to_contain_text("Nothing is paused.")


def _outage(page: Page, stack: Stack) -> None:
    go(page, "New video")
    reach(page, page.get_by_label("Prompt", exact=True))
    page.keyboard.press("Control+a")
    page.keyboard.type("typed before")
    page.watched.away = True  # type: ignore[attr-defined]
    stack.kill_process("web")
    expect(page.locator("#connection")).to_contain_text("disconnected")
    expect(page.get_by_text("The server is unreachable.")).to_be_visible()
    expect(page.locator("#connection")).to_contain_text("live", timeout=120_000)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("typed before")
