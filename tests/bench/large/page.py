"""The live page in Chromium, with 10,000 jobs and 5,000 videos stored: first load, filters, scrolling."""

import shutil
import statistics
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from shared.database.engine import Database
from tests.bench.support.row import Row
from tests.support.jobs import accepted
from tests.support.videos import stored

JOBS, VIDEOS = 10_000, 5_000
_TIMES = 5
_READY_SECONDS, _FILTER_SECONDS, _TASK_SECONDS = 1.0, 0.2, 0.05
_FIRST_LOAD_KB, _CELLS = 150, 300
# About what a phone has on a good day: 10 Mbit/s, 40 ms there and back.
_LINE = {"offline": False, "latency": 40, "downloadThroughput": 1_250_000, "uploadThroughput": 500_000}
_VIEWS = {"gallery": "#gallery .cell", "jobs": "#jobs tbody tr"}

# Resolves with the milliseconds from the change of a filter to the first drawing with another text in the status.
_FILTER = """([selector, value, status]) => new Promise((done, fail) => {
    setTimeout(() => fail(new Error(`no answer to ${selector} = ${value}`)), 30000);
    const field = document.querySelector(selector), shown = document.querySelector(status), before = shown.textContent;
    const began = performance.now();
    new MutationObserver((_, observer) => {
        if ((document.querySelector(status)?.textContent ?? before) !== before) {
            observer.disconnect();
            requestAnimationFrame(() => done(performance.now() - began));
        }
    }).observe(document.body, {subtree: true, childList: true, characterData: true});
    field.value = value;
    field.dispatchEvent(new Event("input", {bubbles: true}));
    field.dispatchEvent(new Event("change", {bubbles: true}));
})"""
_SCROLL = """async (top) => {
    scrollTo({top});
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return document.querySelectorAll('.cell').length;
}"""


def page(bench: Any) -> list[Row]:
    """As the other measurements: takes the bench; only the web process and Redis run."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        return [Row("the page: no Chromium on PATH", "not measured", "", None)]
    with bench.stack("--only", "web,redis") as stack:
        database = Database(f"sqlite:///{stack.home / 'wanworks.db'}")
        stored(database, [f"stored number {number}" for number in range(VIDEOS)])
        for _ in range((JOBS - VIDEOS) // 500):
            for number in range(500):
                accepted(database, prompt=f"waiting number {number}")
        database.close()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            rows = [row for view in _VIEWS for row in _loads(browser, stack.url, view)]
            return [*rows, *_filters(browser, stack.url), *_scrolling(browser, stack.url)]


def _loads(browser: Browser, url: str, view: str) -> list[Row]:
    near = [_load(browser, url, view) for _ in range(_TIMES)]
    far = [_load(browser, url, view, throttled=True) for _ in range(_TIMES)]
    ready, slow = (statistics.median(seconds for seconds, _ in loads) for loads in (near, far))
    kilobytes = max(size for _, size in near) / 1000
    return [
        Row(f"first load of the {view} to its first items, {JOBS:,} jobs and {VIDEOS:,} videos stored",
            f"{ready:.2f} s", f"<= {_READY_SECONDS:g} s", ready <= _READY_SECONDS),
        Row(f"the same at 10 Mbit/s with 40 ms of latency ({kilobytes:.0f} kB before the first item)",
            f"{slow:.2f} s", f"<= {_READY_SECONDS:g} s, {_FIRST_LOAD_KB} kB",
            slow <= _READY_SECONDS and kilobytes <= _FIRST_LOAD_KB),
    ]  # fmt: skip


def _load(browser: Browser, url: str, view: str, *, throttled: bool = False) -> tuple[float, float]:
    """Return the seconds to the first item of the view, in a new browser context, and the bytes of code and page."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, bypass_csp=True)
    opened = context.new_page()
    if throttled:
        context.new_cdp_session(opened).send("Network.emulateNetworkConditions", _LINE)
    opened.add_init_script(
        f"""new MutationObserver((_, observer) => {{
            if (!document.querySelector({_VIEWS[view]!r})) return;
            observer.disconnect();
            requestAnimationFrame(() => {{ window.readyAfter = performance.now(); }});
        }}).observe(document, {{subtree: true, childList: true}});"""
    )
    opened.goto(f"{url}/#{view}", wait_until="commit")
    opened.wait_for_function("window.readyAfter !== undefined", timeout=60_000)
    seconds = float(opened.evaluate("window.readyAfter")) / 1000
    size = opened.evaluate(
        "performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource'))"
        ".filter((one) => one.startTime < window.readyAfter && !one.name.includes('/api/'))"
        ".reduce((sum, one) => sum + one.transferSize, 0)"
    )
    context.close()
    return seconds, float(size)


def _filters(browser: Browser, url: str) -> list[Row]:
    opened = browser.new_page(viewport={"width": 1400, "height": 900}, bypass_csp=True)
    gallery = _filtered(opened, f"{url}/#gallery", ".cell", "#gallery input[type=search]", "#gallery [role=status]")
    shown = "#jobs .list-summary [role=status]"
    jobs = _filtered(opened, f"{url}/#jobs", "#jobs tbody tr", "#jobs select[name=status]", shown)
    opened.close()
    return [
        Row(f"from a filter of the {view} to its answer on the screen, {what}", f"{1000 * seconds:.0f} ms",
            f"<= {1000 * _FILTER_SECONDS:.0f} ms", seconds <= _FILTER_SECONDS)
        for view, what, seconds in (("gallery", "a search in prompts", gallery), ("jobs", "by status", jobs))
    ]  # fmt: skip


def _filtered(opened: Page, address: str, item: str, field: str, status: str) -> float:
    opened.goto("about:blank")
    opened.goto(address)
    opened.wait_for_selector(item)
    chosen = ("number 49", "number 48", "number 47") if "search" in field else ("queued",) * 3
    values = [value for one in chosen for value in (one, "")]
    return statistics.median(float(opened.evaluate(_FILTER, [field, value, status])) for value in values) / 1000


def _scrolling(browser: Browser, url: str) -> list[Row]:
    opened = browser.new_page(viewport={"width": 1400, "height": 900}, bypass_csp=True)
    opened.goto(f"{url}/#gallery")
    opened.wait_for_selector(".cell")
    full = opened.evaluate("document.documentElement.scrollHeight")
    measuring = opened.context.new_cdp_session(opened)
    measuring.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        found = measuring.send("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in found if one["name"] == "TaskDuration"))

    most, longest, before = 0, 0.0, spent()
    for step in range(1, 101):
        most = max(most, opened.evaluate(_SCROLL, full * step / 100))
        now = spent()
        longest, before = max(longest, now - before), now
    opened.close()
    return [
        Row(f"the longest frame while scrolling through {VIDEOS:,} videos, in processor time ({most} cells at most)",
            f"{1000 * longest:.0f} ms", f"<= {1000 * _TASK_SECONDS:.0f} ms, {_CELLS} cells",
            longest <= _TASK_SECONDS and most <= _CELLS)
    ]  # fmt: skip
