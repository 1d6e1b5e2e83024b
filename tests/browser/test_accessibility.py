"""Check every view with axe in light and dark mode, and on a phone for horizontal scrolling."""

import io
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from tests.support.stack import Stack

VIEWS = ("overview", "gallery", "jobs", "flows", "new", "models", "devices", "alerts")
HEADINGS = {
    "overview": "Over time",
    "flows": "Flows",
    "new": "Estimated time",
    "models": "Clean up",
    "devices": "Nodes",
    "alerts": "History",
}
PHONE = {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def finished(stack: Stack) -> str:
    """The id of a finished video."""
    job = stack.submit(
        prompt="something to look at, with a_very_long_word_that_nobody_would_ever_break_by_themselves" * 2
    )
    assert stack.wait_status(job)["status"] == "succeeded"
    return job


def shown(page: Page, view: str, job: str) -> None:
    """Wait until the view has its content."""
    if view.startswith("job/"):
        expect(page.get_by_role("dialog").locator("video")).to_be_visible()
    elif view == "gallery":
        expect(page.locator(f"#gallery [data-job='{job}'] img")).to_be_visible()
    elif view == "jobs":
        expect(page.locator(f"#jobs [data-job='{job}'] img")).to_be_visible()
    else:
        expect(page.get_by_role("heading", name=HEADINGS[view])).to_be_visible()
    if view == "new":
        page.locator("summary", has_text="Advanced").click()
        page.get_by_role("button", name="Add a LoRA").click()
        expect(page.get_by_label("LoRA 1", exact=True)).to_be_focused()


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_has_a_serious_violation(open_page: Callable[..., Page], finished: str, scheme: str) -> None:
    page = open_page(color_scheme=scheme, reduced_motion="reduce")
    for view in (*VIEWS, f"job/{finished}"):
        page.evaluate(f"location.hash = '{view}'")
        shown(page, view, finished)
        assert not serious(page), view


# Speech control goes by what is seen. Symbols are not spoken, and counts stand beside the words.
MISNAMED = """() => [...document.querySelectorAll("a[aria-label], button[aria-label], summary[aria-label]")]
    .filter((one) => one.checkVisibility())
    .map((one) => [one.innerText, one.ariaLabel].map((text) => text.toLowerCase().replace(/[^a-z0-9 ]/g, "").trim()))
    .filter(([seen, name]) => seen && !name.includes(seen))"""


def test_the_name_of_every_control_contains_what_is_seen_of_it(open_page: Callable[..., Page], finished: str) -> None:
    page = open_page()
    for view in (*VIEWS, f"job/{finished}"):
        page.evaluate(f"location.hash = '{view}'")
        shown(page, view, finished)
        assert page.evaluate(MISNAMED) == [], view


def test_a_phone_scrolls_no_view_sideways(open_page: Callable[..., Page], finished: str) -> None:
    page = open_page(viewport=PHONE)
    for view in (*VIEWS, f"job/{finished}"):
        page.evaluate(f"location.hash = '{view}'")
        shown(page, view, finished)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], (view, width)
    assert not serious(page)


def test_forced_colours_show_what_is_chosen_and_how_far_a_job_is(open_page: Callable[..., Page], finished: str) -> None:
    """Such a mode draws no grounds and no shadows."""
    page = open_page(color_scheme="dark", forced_colors="active")
    expect(page.locator(".side a[aria-current='page']")).to_have_css("text-decoration-line", "underline")
    expect(page.locator("#connection .dot")).not_to_have_css("background-color", "rgb(0, 0, 0)")
    page.evaluate("location.hash = 'new'")
    models = page.locator("#new .models .choice")
    expect(models.and_(page.locator(":has(:checked)"))).to_have_css("border-top-width", "3px")
    expect(models.and_(page.locator(":not(:has(:checked))")).first).to_have_css("border-top-width", "1px")
    page.evaluate("location.hash = 'jobs'")
    row = page.locator(f"#jobs [data-job='{finished}']")
    row.get_by_role("checkbox").check()
    expect(row).to_have_css("outline-style", "solid")
    page.evaluate(
        "document.querySelector('main').prepend(Object.assign(document.createElement('progress'), {value: 0.5}))"
    )
    bar = page.locator("main > progress")
    expect(bar).to_have_css("border-top-style", "solid")
    drawn = Image.open(io.BytesIO(bar.screenshot())).convert("RGB")
    left, right = (drawn.getpixel((round(drawn.width * share), drawn.height // 2)) for share in (0.25, 0.75))
    assert left != right
