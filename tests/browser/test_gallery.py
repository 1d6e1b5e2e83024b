"""The gallery in a real browser, on a web process alone: what it shows is stored directly in the database."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from shared.cluster import nodes
from shared.database.engine import Database, migrate
from shared.settings import Settings
from shared.storage.store import open_store
from tests.browser.conftest import Watched
from tests.conftest import RedisServer, WebProcess
from tests.support import working
from tests.support.jobs import accepted
from tests.support.stack import wait_for
from tests.support.videos import ARTIFACTS, stored
from workers.generation.finishing import outputs

PROMPTS = ("a paper boat", "a lighthouse at dusk", "another Boat on a lake")
STORED = 5000
MOST_CELLS = 300
MOST_TASK_MS = 50


SCROLL = """async (top) => {
    scrollTo({top});
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return document.querySelectorAll('.cell').length;
}"""


class Site:
    """A web process, its address, and the videos with files, newest first."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.url = ""
        self.settings = Settings(
            home=folder, database_url=f"sqlite:///{folder / 'wanworks.db'}", redis_url=redis_url, catalogue="demo",
            node="here", min_free_disk_mb=0,
        )  # fmt: skip
        migrate(self.settings.database)
        self.database = Database(self.settings.database)
        store = open_store(self.settings, lambda: nodes.agreed(self.database, "store"), create=True)
        stored(self.database, [f"stored number {number}" for number in range(STORED)])
        self.videos: list[str] = []
        for number, prompt in enumerate(PROMPTS):
            request = {"seed": number, "steps": 2 + number}
            job = working.claim(self.database, accepted(self.database, prompt=prompt, request=request).id)
            made = folder / f"made-{number}"
            made.mkdir()
            outputs.write(made, [frame(place, number) for place in range(9)], 8, "mp4", {})
            files = {name: (made / name).read_bytes() for name in ("video.mp4", "thumbnail.jpg")}
            working.finish(self.database, job, working.make(store, job, files))
            self.videos.insert(0, job.id)
        self.web = WebProcess(self.settings).start()
        self.url = f"http://127.0.0.1:{self.web.port}"

    def get(self, path: str) -> Any:
        return self.web.http.get(path).json()

    def artifacts(self, job_id: str) -> Any:
        return self.get(f"/api/v1/jobs/{job_id}")["result"]["artifacts"]


def frame(place: int, colour: int) -> numpy.ndarray:
    pixels = numpy.zeros((64, 64, 3), numpy.uint8)
    pixels[:, :, colour % 3] = 90
    pixels[16:48, 4 + place * 4 : 28 + place * 4] = 220
    return pixels


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, _redis_of_the_session: RedisServer) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("gallery"), _redis_of_the_session.url)
    yield site
    site.web.http.close()
    site.web.stop()
    site.database.close()


@pytest.fixture
def watched(site: Site) -> Iterator[Watched]:
    """Fail the test for what no page may do."""
    watched = Watched(site)  # type: ignore[arg-type]
    yield watched
    assert not watched.complaints


@pytest.fixture
def opened(browser: Browser, site: Site, watched: Watched) -> Iterator[Callable[..., Page]]:
    """Open the gallery under these filters, in a new browser context."""
    contexts = []

    def open_gallery(query: str = "", away: bool = False, **options: Any) -> Page:
        watched.away = away
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        page = watched.watch(context.new_page())
        page.goto(f"{site.url}/#gallery{query}")
        expect(page.locator("#gallery p[role=status]")).to_contain_text(re.compile(r"\d video|No video"))
        return page

    yield open_gallery
    for context in contexts:
        context.close()


def cell(page: Page, job_id: str) -> Any:
    return page.locator(f".cell[data-job='{job_id}']")


def test_a_video_plays_while_pointer_or_focus_is_on_it(opened: Callable[..., Page], site: Site) -> None:
    page = opened("?q=boat")
    first, second = (cell(page, job) for job in (site.videos[0], site.videos[2]))
    first.locator(".cell-link").hover()
    video = first.locator("video")
    expect(video).to_have_count(1)
    page.wait_for_function("() => document.querySelector('.cell video').currentTime > 0")
    assert video.evaluate("video => video.muted && video.loop")
    page.mouse.move(2, 2)
    expect(page.locator(".cell video")).to_have_count(0)
    first.locator(".cell-link").focus()
    expect(first.locator("video")).to_have_count(1)
    page.keyboard.press("ArrowRight")
    expect(second.locator(".cell-link")).to_be_focused()
    expect(second.locator("video")).to_have_count(1)
    expect(page.locator(".cell video")).to_have_count(1)
    still = opened("?q=boat", reduced_motion="reduce")
    cell(still, site.videos[0]).locator(".cell-link").focus()
    still.wait_for_timeout(300)
    expect(still.locator(".cell video")).to_have_count(0)


def test_search_and_filters_are_in_the_address_and_survive_a_reload(opened: Callable[..., Page]) -> None:
    page = opened()
    search = page.get_by_label("Search in prompts")
    search.fill("BOAT")
    expect(page.locator(".cell")).to_have_count(2)
    expect(page).to_have_url(re.compile(r"#gallery\?q=BOAT$"))
    expect(search).to_be_focused()
    page.get_by_label("Size").select_option("64x64")
    expect(page).to_have_url(re.compile(r"q=BOAT&size=64x64$"))
    page.reload()
    expect(page.locator(".cell")).to_have_count(2)
    expect(page.get_by_label("Search in prompts")).to_have_value("BOAT")
    expect(page.get_by_label("Size")).to_have_value("64x64")
    page.get_by_label("Search in prompts").fill("zebra")
    expect(page.get_by_text("No video matches.")).to_be_visible()
    page.get_by_role("link", name="Show all videos").click()
    expect(page.locator("#gallery p[role=status]")).to_have_text("5,003 videos")
    expect(page.get_by_label("Search in prompts")).to_have_value("")


def test_favourites_and_collections_by_mouse_and_key(opened: Callable[..., Page], site: Site) -> None:
    page = opened()
    first, second, _ = (cell(page, job) for job in site.videos)
    first.get_by_role("button", name="Favourite").click()
    expect(first.get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "true")
    second.locator(".cell-link").focus()
    expect(page.locator(".cell-link:not([tabindex])")).to_have_count(1)  # Tab reaches one video, arrows the others
    expect(second.locator(".cell-link")).not_to_have_attribute("tabindex", "-1")
    page.keyboard.press("f")
    expect(second.get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="★ Favourites").click()
    expect(page.locator(".cell")).to_have_count(2)
    page.get_by_label("Select: another Boat on a lake").check()
    page.get_by_role("button", name="Add to collection…").click()
    page.get_by_role("dialog").get_by_label("Name").fill("boats")  # there is none to choose from
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(page.locator("#toasts")).to_contain_text("1 video added to “boats”")
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator("#gallery p[role=status]")).to_have_text("5,003 videos")  # without the filter of before
    collection = page.locator("#gallery select[name=collection]")
    collection.select_option(label="boats (1)")
    expect(page.locator(".cell")).to_have_count(1)
    page.get_by_role("button", name="Rename collection boats").click()
    page.get_by_role("dialog").get_by_label("Name").fill("ships")
    page.keyboard.press("Enter")
    expect(collection).to_contain_text("ships (1)")
    page.get_by_role("button", name="Delete collection").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#gallery p[role=status]")).to_have_text("5,003 videos")
    assert site.get("/api/v1/collections") == {"data": []}


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_how_many_videos_are_compared_is_said_where_it_is_refused(opened: Callable[..., Page], width: int) -> None:
    page = opened("?q=stored+number")
    page.set_viewport_size({"width": width, "height": 844})
    bar, picks = page.locator(".selection-bar"), page.locator(".pick")
    picks.nth(0).click()
    picks.nth(1).click()
    expect(bar.get_by_role("button", name="Compare")).to_be_enabled()
    expect(bar).not_to_contain_text("Compare takes")
    for number in (2, 3, 4):
        picks.nth(number).click()
    expect(bar.get_by_role("button", name="Compare")).to_be_disabled()
    expect(bar.get_by_text("Compare takes 2 to 4 videos.")).to_be_in_viewport(ratio=1)
    box = bar.bounding_box()
    assert box is not None
    assert box["height"] < 110, "a line more, at most"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_range_is_selected_and_deleted_once_confirmed(opened: Callable[..., Page], site: Site) -> None:
    page = opened("?q=stored+number")
    picks = page.locator(".pick")
    picks.nth(1).click()
    picks.nth(4).click(modifiers=["Shift"])
    expect(page.get_by_text("4 selected")).to_be_visible()
    page.keyboard.press("Shift+ArrowRight")
    page.locator(".cell-link").nth(4).focus()
    page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_text("5 selected")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".selection-bar")).to_have_count(0)
    page.locator(".cell-link").nth(1).focus()
    page.keyboard.press("x")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_text("2 selected")).to_be_visible()
    doomed = [page.locator(".cell").nth(place).get_attribute("data-job") for place in (1, 2)]
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Keep them").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".selection-bar")).to_have_count(0)
    expect(cell(page, str(doomed[0]))).to_have_count(0)
    for job in doomed:
        assert site.web.http.get(f"/api/v1/jobs/{job}").status_code == 404
    stored(site.database, ["stored again", "stored again"])  # the other tests count them


@pytest.mark.parametrize("width", [1400, 390, 320])
def test_a_selection_moves_nothing(opened: Callable[..., Page], site: Site, width: int) -> None:
    page = opened("?q=boat", viewport={"width": width, "height": 844}, has_touch=width < 820)
    chosen = cell(page, site.videos[0])
    before = chosen.bounding_box()
    chosen.locator(".pick").check()
    bar = page.get_by_role("group", name="Selected videos")
    expect(bar.get_by_role("status")).to_have_text("1 selected")
    assert chosen.bounding_box() == before
    box = bar.bounding_box()
    assert box is not None
    assert box["height"] < 64, "one row"
    last = bar.get_by_role("button").last.bounding_box()
    assert last is not None
    assert last["x"] + last["width"] <= box["x"] + box["width"] <= width
    tabs = page.locator("nav.side").bounding_box()
    assert tabs is not None
    assert width > 820 or box["y"] + box["height"] <= tabs["y"], "above the views of a phone"
    if width < 820:
        expect(bar.get_by_role("link", name="Download")).to_be_hidden()
        bar.get_by_text("More").click()
        expect(bar.get_by_role("link", name="Download")).to_be_visible()
    bar.get_by_role("button", name="Clear selection").click()
    expect(bar).to_have_count(0)


def test_a_video_is_made_again_with_another_seed_once_confirmed(opened: Callable[..., Page], site: Site) -> None:
    page = opened("?q=boat")
    bar = page.get_by_role("group", name="Selected videos")
    page.locator(".pick").first.check()
    expect(bar).to_contain_text("1 selected")
    page.evaluate("""() => {  // the second click comes before the bar says that two are selected
        document.querySelectorAll(".pick")[1].click();
        [...document.querySelectorAll(".selection-bar button")].find((one) => one.textContent === "Make again").click();
    }""")
    asked = page.get_by_role("dialog", name="Make 2 videos again?")
    asked.get_by_role("button", name="Cancel").click()
    assert site.get("/api/v1/jobs?status=queued")["data"] == []
    bar.get_by_role("button", name="Make again").click()
    asked.get_by_role("button", name="Make again").click()
    expect(page.locator("#toasts")).to_contain_text("2 new videos with other seeds are queued.")
    expect(bar).to_have_count(0)
    made = site.get("/api/v1/jobs?status=queued")["data"]
    assert {job["retry_of"] for job in made} == {site.videos[0], site.videos[2]}
    assert {job["params"]["seed"] for job in made}.isdisjoint({0, 1, 2})
    for job in made:
        site.web.http.delete(f"/api/v1/jobs/{job['id']}")


def test_a_dialog_marks_its_video_and_a_new_collection_is_shown(opened: Callable[..., Page], site: Site) -> None:
    page = opened("?q=boat")
    cell(page, site.videos[0]).locator(".cell-link").click()
    dialog = page.get_by_role("dialog", name="another Boat on a lake")
    star = dialog.get_by_role("button", name="Favourite")
    was = star.get_attribute("aria-pressed")
    star.click()
    expect(star).not_to_have_attribute("aria-pressed", str(was))
    star.click()
    expect(star).to_have_attribute("aria-pressed", str(was))
    add = dialog.get_by_role("button", name="Add to collection…")
    add.click()
    asked = page.get_by_role("dialog", name="New collection")
    asked.get_by_label("Name").fill("from a dialog")
    asked.get_by_role("button", name="Create").click()
    expect(page.locator("#toasts")).to_contain_text("Added to “from a dialog”")
    listed = dialog.get_by_role("list", name="Collections")
    expect(listed.get_by_role("listitem")).to_have_text(["from a dialog✕"])
    add.click()  # that one is left out, so there is none to choose from
    expect(asked).to_be_visible()
    page.keyboard.press("Escape")
    listed.get_by_role("button", name="Take out of from a dialog").click()
    expect(listed).to_have_count(0)
    expect(add).to_be_focused()
    page.keyboard.press("Enter")
    choices = page.get_by_role("dialog", name="Add to a collection")
    expect(choices.get_by_role("listitem")).to_have_text(["from a dialog (0)", "New collection…"])
    page.keyboard.press("Escape")
    expect(add).to_be_focused()
    add.click()
    choices.get_by_role("button", name="from a dialog").click()
    page.reload()  # the membership comes from the server
    expect(listed.get_by_role("listitem")).to_have_text(["from a dialog✕"])
    listed.get_by_role("link", name="from a dialog").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".cell")).to_have_count(1)
    page.get_by_role("link", name="Clear").click()
    page.get_by_role("button", name="New collection").click()
    asked.get_by_label("Name").fill("an empty one")
    asked.get_by_role("button", name="Create").click()
    shown = page.locator("#gallery select[name=collection] option:checked")
    expect(shown).to_have_text("an empty one (0)")
    expect(page.locator("#gallery .empty")).to_have_text(re.compile("” is empty: add videos from the gallery$"))
    page.get_by_label("Search in prompts").fill("boat")
    expect(page.locator("#gallery .empty")).to_contain_text("No video matches.")
    for one in site.get("/api/v1/collections")["data"]:
        site.web.http.delete(f"/api/v1/collections/{one['id']}")


@pytest.mark.parametrize("width", [1400, 1024, 390])
def test_what_the_focus_reaches_outside_of_the_list_does_not_scroll_it(
    opened: Callable[..., Page], site: Site, width: int
) -> None:
    page = opened(viewport={"width": width, "height": 844})
    page.locator(".pick").first.check()
    for bar, places in (("#gallery .selection-bar", "#gallery"), (".make-bar", "#new")):
        if places == "#new":
            page.goto(f"{site.url}/#new")
        expect(page.locator(bar)).to_be_visible()
        page.evaluate("scrollTo(0, 200)")
        page.wait_for_function("() => scrollY > 100")
        before = page.evaluate("scrollY")
        controls = page.locator(f".top :is(a, button), .side :is(a, summary), {bar} :is(a, button, summary)")
        assert controls.count() > 10
        for control in controls.all():
            if control.is_visible() and control.is_enabled():
                control.focus()
                assert page.evaluate("scrollY") == before, control.inner_text()


def test_new_videos_keep_the_place_of_what_is_pointed_at_and_are_offered_where_they_belong(
    opened: Callable[..., Page], site: Site
) -> None:
    page = opened()
    first = page.locator(".cell").first
    first.hover()
    before = first.bounding_box()
    made = stored(site.database, ["made while somebody looks"], artifacts=[])[0]
    page.get_by_role("button", name="Refresh").dispatch_event("click")
    offered = page.get_by_role("button", name="Show new videos")
    expect(offered).to_be_visible()
    assert first.bounding_box() == before
    offered.click()
    expect(first).to_contain_text("made while somebody looks")
    expect(offered).to_have_count(0)
    page.goto(f"{site.url}/#gallery?q=boat")
    expect(page.locator(".cell")).to_have_count(2)
    page.locator(".pick").first.check()
    other = stored(site.database, ["another one, which does not match"], artifacts=[])[0]
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#toasts")).to_contain_text("Refreshed.")
    expect(offered).to_have_count(0)
    for job in (made, other):
        site.web.http.delete(f"/api/v1/jobs/{job}")


def test_videos_are_compared_in_step(opened: Callable[..., Page], site: Site) -> None:
    page = opened("?q=boat")
    for pick in page.locator(".pick").all():
        pick.check()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_bytes()[:2] == b"PK"
    page.get_by_role("button", name="Compare").click()
    dialog = page.get_by_role("dialog")
    page.wait_for_function("() => [...document.querySelectorAll('dialog video')].every((one) => one.readyState >= 2)")
    times = "() => [...document.querySelectorAll('dialog video')].map((one) => one.currentTime)"
    for _ in range(3):
        dialog.get_by_role("button", name="One frame on").click()
    dialog.get_by_role("button", name="One frame back").click()
    expect(dialog.get_by_text("frame 3 of 9")).to_be_visible()
    assert page.evaluate(times) == [2.5 / 8] * 2
    dialog.get_by_label("Frame", exact=True).fill("5")
    assert page.evaluate(times) == [5.5 / 8] * 2
    dialog.get_by_role("button", name="Play").click()
    page.wait_for_function("() => [...document.querySelectorAll('dialog video')].some((one) => one.currentTime > 0.8)")
    apart = page.evaluate(times)
    assert max(apart) - min(apart) < 0.25
    rows = dialog.get_by_role("row")
    assert {row.inner_text().split("\t")[0] for row in rows.all()} >= {"Prompt", "Seed", "Steps"}
    assert dialog.get_by_role("row", name=re.compile("Model")).count() == 0, "equal settings are not shown"
    page.set_viewport_size({"width": 390, "height": 700})
    expect(dialog.get_by_role("button", name=re.compile("^(Play|Pause)$"))).to_be_in_viewport(ratio=1)
    for video in dialog.locator("video").all():
        box = video.bounding_box()
        assert box is not None
        assert box["height"] <= (700 - 220) / 2
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_a_compared_video_is_made_a_favourite_and_opened_and_closing_it_returns_to_the_comparison(
    opened: Callable[..., Page], site: Site
) -> None:
    page = opened("?q=boat")
    for pick in page.locator(".pick").all():
        pick.check()
    page.get_by_role("button", name="Compare").click()
    compared = page.get_by_role("dialog", name="Compare 2 videos")
    second = compared.locator("figure").nth(1)
    star = second.get_by_role("button", name="Favourite")
    was = star.get_attribute("aria-pressed")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "false" if was == "true" else "true")
    star.click()
    expect(star).to_have_attribute("aria-pressed", str(was))
    address = page.url
    title = second.get_by_role("link").inner_text()
    second.get_by_role("link").click()
    job = page.get_by_role("dialog", name=title)
    expect(job.get_by_role("link", name="Download")).to_be_visible()
    page.reload()
    expect(job.get_by_role("link", name="Download")).to_be_visible()
    page.keyboard.press("Escape")
    expect(compared).to_be_visible()
    assert page.url == address
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.locator(".cell-link").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page).to_have_url(re.compile("#gallery"))  # a video that is opened from the gallery returns to it


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (1024, 768), (390, 844)])
def test_four_videos_are_compared_without_scrolling(
    opened: Callable[..., Page], site: Site, width: int, height: int
) -> None:
    files = {one["kind"]: site.web.http.get(one["url"]) for one in site.artifacts(site.videos[0])}

    def answer(route: Route) -> None:
        kind = "video" if "mp4" in route.request.url else "thumbnail"
        route.fulfill(body=files[kind].content, content_type=files[kind].headers["content-type"])

    page = opened(viewport={"width": width, "height": height})
    page.route(re.compile(r"\.(mp4|jpg)$"), answer)
    fourth = stored(site.database, ["a ferry at night"], artifacts=ARTIFACTS)[0]
    page.reload()
    for prompt in ("a ferry at night", *PROMPTS):
        page.get_by_label(f"Select: {prompt}", exact=True).check()
    page.get_by_role("button", name="Compare").click()
    dialog = page.get_by_role("dialog", name="Compare 4 videos")
    play = dialog.get_by_role("button", name="Play")
    for seen in (*dialog.locator("figure").all(), play, dialog.get_by_label("Frame", exact=True)):
        expect(seen).to_be_in_viewport(ratio=1)
    expect(dialog.get_by_text("Settings that differ")).to_be_in_viewport(ratio=1)
    controls = dialog.locator(".player-row").bounding_box()
    for caption in dialog.locator("figcaption").all():
        box = caption.bounding_box()
        assert box is not None
        assert controls is not None
        assert box["y"] + box["height"] <= controls["y"]
    table = dialog.get_by_role("region", name="Settings that differ")
    table.get_by_role("row").last.scroll_into_view_if_needed()
    expect(table.get_by_role("row").last).to_be_in_viewport(ratio=1)
    assert dialog.locator(".player-row").bounding_box() == controls, "they stay"
    site.web.http.delete(f"/api/v1/jobs/{fourth}")


@pytest.mark.parametrize("width", [1400, 1024, 390])
def test_the_two_dates_stand_beside_each_other(opened: Callable[..., Page], width: int) -> None:
    page = opened(viewport={"width": width, "height": 844})
    if width <= 1160:
        page.get_by_role("button", name="Filters").click()
    expect(page.get_by_label("From", exact=True)).to_be_visible()
    first, last = (page.get_by_label(name, exact=True).bounding_box() for name in ("From", "To"))
    assert first is not None
    assert last is not None
    assert first["y"] == last["y"]
    assert 0 < last["x"] - first["x"] - first["width"] < 20
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_space_bar_plays_a_comparison_and_never_closes_it(opened: Callable[..., Page], site: Site) -> None:
    page = opened("?q=boat")
    for pick in page.locator(".pick").all():
        pick.check()
    page.get_by_role("button", name="Compare").click()
    dialog = page.get_by_role("dialog", name="Compare 2 videos")
    play = dialog.get_by_role("button", name=re.compile("^(Play|Pause)$"))
    expect(play).to_be_focused()
    frame = dialog.locator("[data-frame]")
    page.wait_for_function("() => [...document.querySelectorAll('dialog video')].every((one) => one.readyState >= 2)")
    page.keyboard.press(" ")
    page.wait_for_function("() => document.querySelector('dialog video').currentTime > 0.3")
    expect(play).to_have_text("Play")  # at the end
    dialog.get_by_role("button", name="One frame back").click()
    expect(frame).to_have_attribute("data-frame", "7")
    page.keyboard.press(" ")  # after a click elsewhere, too
    expect(frame).to_have_attribute("data-frame", "8")
    expect(play).to_have_text("Play")
    page.keyboard.press("Tab")
    expect(dialog.get_by_role("button", name="One frame on")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press(" ")  # a button reached by Tab keeps it
    expect(frame).to_have_attribute("data-frame", "7")
    page.keyboard.press("?")
    shortcuts = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(shortcuts).to_contain_text("play or pause")
    page.keyboard.press("Escape")
    expect(shortcuts).to_be_hidden()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_a_comparison_has_an_address(opened: Callable[..., Page], site: Site, watched: Watched) -> None:
    page = opened("?q=boat")
    for pick in page.locator(".pick").all():
        pick.check()
    page.get_by_role("button", name="Compare").click()
    dialog = page.get_by_role("dialog", name="Compare 2 videos")
    expect(dialog).to_be_visible()
    address = page.evaluate("location.hash")
    page.reload()
    expect(dialog).to_be_visible()
    expect(page.get_by_label("Search in prompts")).to_have_value("boat")  # the gallery behind it
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    wait_for(lambda: page.evaluate("location.hash") == "#gallery?q=boat", 10, "the address of the gallery")
    page.goto(f"{site.url}/{address}")
    expect(dialog).to_be_visible()
    page.go_back()
    expect(dialog).to_have_count(0)
    watched.away = True
    none = "01a22ce8-c102-7a64-835f-1beb9a94d33e"
    for ids, why in (
        (site.videos[:1], "A comparison has two to four videos; this address names 1."),
        ([site.videos[0], none], "Fewer than two of these videos exist."),
    ):
        page.goto(f"{site.url}/#compare/{','.join(ids)}")
        expect(page.locator("#toasts")).to_contain_text(f"The videos cannot be compared. {why}")
        expect(page.locator("#gallery")).to_be_visible()
    watched.complaints = [one for one in watched.complaints if none not in one]


def task_seconds(measuring: Any) -> float:
    """Return how long the page's tasks have taken so far."""
    found = measuring.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in found if one["name"] == "TaskDuration"))


def test_five_thousand_videos_scroll_with_few_cells_and_short_tasks(opened: Callable[..., Page]) -> None:
    page = opened()
    full = page.evaluate("document.documentElement.scrollHeight")
    # In time of the processor, because other processes may keep the browser waiting.
    measuring = page.context.new_cdp_session(page)
    measuring.send("Performance.enable", {"timeDomain": "threadTicks"})
    most, longest, before = 0, 0.0, task_seconds(measuring)
    for step in range(1, 41):
        most = max(most, page.evaluate(SCROLL, full * step / 40))
        now = task_seconds(measuring)
        longest, before = max(longest, now - before), now
    assert 0 < most <= MOST_CELLS
    assert longest * 1000 <= MOST_TASK_MS, "all tasks of one frame together"
    assert page.evaluate("document.documentElement.scrollHeight") == full, "the scroll bar was right from the start"
    expect(page.get_by_text("stored number 0", exact=True)).to_be_visible()
    page.evaluate("scrollTo({top: 0})")
    page.locator(".cell-link").first.focus()
    page.keyboard.press("End")
    expect(page.locator(".cell[aria-posinset='5003'] .cell-link")).to_be_focused()
    page.keyboard.press("Home")
    expect(page.locator(".cell[aria-posinset='1'] .cell-link")).to_be_focused()


def scrolled(page: Page, top: int) -> None:
    wait_for(lambda: abs(page.evaluate("scrollY") - top) <= 1, 10, f"to be scrolled to {top}")


def test_back_forward_and_reloading_return_to_the_same_place(opened: Callable[..., Page], site: Site) -> None:
    page = opened()
    page.mouse.move(700, 500)
    page.evaluate("scrollTo({top: 9000})")
    side = page.get_by_role("navigation")
    side.get_by_role("link", name="Devices").click()
    expect(page.locator("#devices")).to_be_visible()
    scrolled(page, 0)
    page.go_back()
    scrolled(page, 9000)
    page.reload()
    scrolled(page, 9000)
    page.go_forward()
    expect(page.locator("#devices")).to_be_visible()
    scrolled(page, 0)
    side.get_by_role("link", name="Gallery").click()
    expect(page.locator(".cell").first).to_be_visible()
    scrolled(page, 0)


def test_a_video_returns_with_the_gallery_behind_it(opened: Callable[..., Page], site: Site) -> None:
    page = opened()
    page.evaluate("scrollTo({top: 400})")
    shown = page.locator(".cell").nth(9)
    title = shown.locator(".cell-title").inner_text()
    shown.locator(".cell-link").click()
    dialog = page.get_by_role("dialog", name=title)
    dialog.get_by_role("button", name="Next video").click()
    opened_last = page.get_by_role("dialog")
    expect(opened_last.get_by_role("heading", level=2)).not_to_have_text(re.compile(f"^({re.escape(title)}|Loading…)$"))
    name = opened_last.get_by_role("heading", level=2).inner_text()
    opened_last.get_by_role("link", name="Reuse:").click()
    expect(page.locator("#new")).to_be_visible()
    page.go_back()
    for _ in range(2):
        expect(page.locator("#gallery")).to_be_visible()
        expect(opened_last.get_by_role("heading", level=2)).to_have_text(name)
        expect(opened_last.get_by_role("button", name="Previous video")).not_to_have_attribute("aria-disabled", "true")
        page.reload()
    page.go_back()
    expect(opened_last).to_have_count(0)
    scrolled(page, 400)


def test_a_refused_name_of_a_collection_stays_to_be_mended(
    opened: Callable[..., Page], site: Site, watched: Watched
) -> None:
    site.web.http.post("/api/v1/collections", json={"name": "boats of old"})
    page = opened(away=True)
    page.get_by_role("button", name="New collection").click()
    asked = page.get_by_role("dialog", name="New collection")
    field = asked.get_by_label("Name")
    field.fill("boats of old")
    page.keyboard.press("Enter")
    expect(asked.get_by_role("alert")).to_contain_text("There is a collection")
    expect(field).to_be_focused()
    expect(field).to_have_value("boats of old")
    field.fill("boats of today, and of all the days that are still to come")
    page.route("**/api/v1/collections", lambda route: route.abort("connectionrefused"))
    asked.get_by_role("button", name="Create").click()
    expect(asked.get_by_role("alert")).to_have_text("The server does not respond.")
    page.unroute("**/api/v1/collections")
    asked.get_by_role("button", name="Create").click()
    expect(asked).to_have_count(0)
    expect(page.locator("#gallery .empty")).to_contain_text("“boats of today, and of all the days")
    for one in site.get("/api/v1/collections")["data"]:
        site.web.http.delete(f"/api/v1/collections/{one['id']}")
    assert all("409" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_the_dialog_of_a_video_goes_on_in_the_order_of_the_gallery(opened: Callable[..., Page], site: Site) -> None:
    page = opened("?q=boat")
    cell(page, site.videos[0]).locator(".cell-link").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="another Boat on a lake")).to_be_visible()
    dialog.get_by_role("button", name="Next video").click()
    expect(dialog.get_by_role("heading", name="a paper boat")).to_be_visible()
    expect(dialog.get_by_role("button", name="Next video")).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(r"#gallery\?q=boat$"))
    last = cell(page, site.videos[2]).locator(".cell-link")
    expect(last).to_be_focused()
    expect(last).to_be_in_viewport()


def test_an_error_is_shown_and_can_be_tried_again(opened: Callable[..., Page]) -> None:
    page = opened("?q=boat", away=True)
    page.route("**/api/v1/gallery?**", lambda route: route.abort("connectionrefused"))
    page.get_by_label("Search in prompts").fill("lake")
    expect(page.get_by_text("The videos could not be loaded: The server does not respond.")).to_be_visible()
    page.unroute("**/api/v1/gallery?**")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".cell")).to_have_count(1)


def test_one_cause_is_one_error(opened: Callable[..., Page], site: Site) -> None:
    page = opened("?q=boat", away=True)
    page.route("**/api/v1/**", lambda route: route.abort("connectionrefused"))
    page.goto("about:blank")
    page.goto(f"{site.url}/#gallery?q=lake")
    shown = page.locator("#gallery .note.bad")
    expect(shown).to_have_text(["The videos could not be loaded: The server does not respond."])
    page.unroute("**/api/v1/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".cell")).to_have_count(1)
    expect(page.get_by_label("Size").locator("option")).not_to_have_count(1)
    page.route("**/api/v1/collections", lambda route: route.abort("connectionrefused"))
    page.route("**/api/v1/gallery/choices", lambda route: route.abort("connectionrefused"))
    page.goto("about:blank")
    page.goto(f"{site.url}/#gallery?q=boat")
    why = "The sizes, LoRAs and collections could not be loaded: The server does not respond."
    expect(shown).to_have_text([why])
    expect(page.locator(".filters .note")).to_have_count(0)
    expect(page.locator(".cell")).to_have_count(2)
    page.unroute("**/api/v1/collections")
    page.unroute("**/api/v1/gallery/choices")
    page.get_by_role("button", name="Try again").click()
    expect(shown).to_have_count(0)
