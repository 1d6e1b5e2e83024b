"""Use the live page while requests, its socket or one of its scripts are not answered."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Open, Watched
from tests.support.stack import Stack, wait_for

API = "**/api/v1/**"
WANTING = {
    "overview": "The jobs could not be loaded: The server does not respond.",
    "jobs": "The jobs could not be loaded: The server does not respond.",
    "flows": "The flows could not be loaded: The server does not respond.",
    "models": "The models could not be loaded: The server does not respond.",
    "devices": "The devices could not be loaded: The server does not respond.",
    "alerts": "The alerts could not be loaded: The server does not respond.",
    "gallery": "The videos could not be loaded: The server does not respond.",
}
UNKNOWN_JOB = "job/00000000-0000-7000-8000-000000000000"


def refuse(route: Route) -> None:
    route.abort("connectionrefused")


def load(page: Page, stack: Stack, address: str) -> None:
    page.goto("about:blank")
    page.goto(f"{stack.url}/#{address}")


@pytest.mark.parametrize("view", WANTING)
def test_a_view_without_data_says_so_and_can_be_tried_again(
    open_page: Open, stack: Stack, watched: Watched, view: str
) -> None:
    page = open_page()
    watched.away = True
    page.route(API, refuse)
    load(page, stack, view)
    shown = page.locator(f"#{view} .body")
    expect(shown).to_contain_text(WANTING[view])
    expect(shown.locator(".waiting")).to_have_count(0)
    expect(shown).not_to_contain_text(re.compile("loading", re.IGNORECASE))
    # The socket still works, and says nothing about what the view shows.
    expect(page.locator("#connection")).to_have_text("requests fail, no data yet")
    expect(page.locator(".toast")).to_have_count(0)
    page.unroute(API, refuse)
    shown.get_by_role("button", name="Try again").first.click()
    expect(shown).not_to_contain_text("could not be loaded")
    expect(page.locator("#connection")).to_have_text("live")


def test_a_dialog_that_could_not_be_loaded_comes_with_the_next_answer(
    open_page: Open, stack: Stack, watched: Watched
) -> None:
    job = stack.submit(prompt="comes back by itself")
    stack.wait_status(job)
    page = open_page("#devices")
    watched.away = True
    page.route("**/api/**", lambda route: route.abort())
    page.route("**/healthz", lambda route: route.abort())
    page.evaluate(f"location.hash = 'job/{job}'")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The server does not respond.")
    page.unroute("**/api/**")
    page.unroute("**/healthz")
    expect(dialog).to_contain_text("comes back by itself", timeout=35_000)
    expect(dialog).not_to_contain_text("The server does not respond.")
    watched.complaints = [one for one in watched.complaints if "net::ERR_FAILED" not in one]


def test_only_an_answer_ends_that_requests_fail(open_page: Open, stack: Stack, watched: Watched) -> None:
    page = open_page()
    watched.away = True
    everything = "**/api/**"  # but not the socket
    page.route(everything, refuse)
    load(page, stack, "overview")
    connection, notice = page.locator("#connection"), page.locator("#notice")
    expect(connection).to_have_text("requests fail, no data yet")
    for view in ("gallery", "flows", "jobs"):  # the first two have a script that is loaded now, and ask nothing before
        page.evaluate(
            """view => {
            window.said = [];
            const [shown, toasts] = ["connection", "toasts"].map((id) => document.getElementById(id));
            const note = () => said.push(shown.dataset.state, toasts.textContent);
            window.noting?.disconnect();
            window.noting = new MutationObserver(note);
            noting.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
            location.hash = view;
        }""",
            view,
        )
        expect(page.locator(f"#{view} .body")).to_contain_text(WANTING[view])
        page.wait_for_timeout(300)
        said = set(page.evaluate("said"))
        assert not [one for one in said if "restored" in one or one == "live"], (view, said)
        expect(connection).to_have_text("requests fail, no data yet")
        expect(notice).to_contain_text("Some data could not be loaded")
    page.unroute(everything, refuse)
    expect(connection).to_have_text("live")
    expect(notice).not_to_contain_text("could not be loaded")


def test_a_job_that_could_not_be_loaded_is_tried_again(open_page: Open, stack: Stack, watched: Watched) -> None:
    page = open_page()
    watched.away = True
    page.route(API, refuse)
    load(page, stack, UNKNOWN_JOB)
    dialog = page.get_by_role("dialog", name="The job could not be loaded")
    expect(dialog).to_contain_text("The server does not respond.")
    page.unroute(API, refuse)
    dialog.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("dialog", name="Job not found")).to_be_visible()
    assert all("404" in complaint for complaint in watched.complaints)
    watched.complaints.clear()


def test_without_any_data_the_page_says_that_there_is_none(open_page: Open, stack: Stack, watched: Watched) -> None:
    page = open_page()
    watched.away = True
    page.route_web_socket(re.compile("/dashboard/ws$"), lambda socket: socket.close(code=1011))
    page.route(API, refuse)
    load(page, stack, "jobs")
    expect(page.locator("#connection")).to_have_text("disconnected, no data yet")
    expect(page.locator("#notice")).to_contain_text("There is no data yet; connecting.")
    page.wait_for_timeout(2_500)  # the server's health is asked each second, and is good
    expect(page.locator("#connection")).to_have_text("disconnected, no data yet")
    expect(page.locator(".toast")).to_have_count(0)
    page.unroute(API, refuse)
    expect(page.locator("#connection")).to_have_text("updates every 5 s")
    expect(page.get_by_text("The connection to the server is restored.")).to_have_count(1)


@pytest.mark.parametrize("view", ["gallery", "devices"])
def test_a_view_that_was_opened_while_the_server_was_away_is_shown_when_it_is_back(
    open_page: Open, watched: Watched, view: str
) -> None:
    page = open_page()
    watched.away = True
    everything = re.compile(f"/api/v1/|/healthz|/static/.*/{view}[.]js")
    page.route(everything, refuse)
    page.evaluate(f"location.hash = '{view}'")
    shown = page.locator(f"#{view} .body")
    expect(shown).to_contain_text("This view could not be loaded.")
    expect(page.locator("#connection")).to_contain_text("requests fail")
    page.unroute(everything)
    expect(shown).to_contain_text({"gallery": "Search in prompts", "devices": "CPU 0"}[view])
    expect(page.locator("#connection")).to_have_text("live")


@pytest.mark.parametrize("view", ["gallery", "models", "flows"])
def test_a_view_without_its_script_says_so_and_can_be_tried_again(open_page: Open, watched: Watched, view: str) -> None:
    page = open_page()
    watched.away = True
    script = re.compile(f"/static/.*/{view}[.]js")
    page.route(script, refuse)
    page.route("**/healthz", refuse)
    page.evaluate(f"location.hash = '{view}'")
    shown = page.locator(f"#{view} .body")
    expect(shown).to_have_text("This view could not be loaded.Try again")
    shown.get_by_role("button", name="Try again").click()
    expect(page.locator("#toasts")).to_contain_text("The view was not loaded: the server still does not respond.")
    expect(shown).to_contain_text("This view could not be loaded.")
    page.unroute(script, refuse)
    page.unroute("**/healthz", refuse)
    shown.get_by_role("button", name="Try again").click()
    expect(shown).to_contain_text(
        {"gallery": "Search in prompts", "models": "T2V-A14B", "flows": re.compile("flow|ago")}[view]
    )
    expect(page).to_have_url(re.compile(f"#{view}$"))


BLOCKABLE = """
window.sockets = [];
window.refused = 0;
const Real = window.WebSocket;
window.WebSocket = class extends Real {
  constructor(...given) {
    if (window.blocked) {
      window.refused += 1;
      throw new DOMException("refused", "SecurityError");
    }
    super(...given);
    window.sockets.push(this);
  }
};
"""


def test_the_socket_returns_by_itself_and_with_refresh(open_page: Open) -> None:
    page = open_page()
    page.add_init_script(BLOCKABLE)
    page.reload()
    connection = page.locator("#connection")
    expect(connection).to_have_text("live")
    for by_hand in (False, True):
        page.evaluate("() => { blocked = true; refused = 0; sockets.at(-1).close(); }")
        expect(connection).to_have_text("updates every 5 s")
        wait_for(lambda: page.evaluate("refused") >= 2, 20, "a second attempt")
        page.evaluate("() => { blocked = false; }")
        if by_hand:
            page.get_by_role("button", name="Refresh").click()
            expect(connection).to_have_text("live", timeout=2_000)
        else:
            expect(connection).to_have_text("live")


def test_devices_that_could_not_be_loaded_are_not_said_to_be_none(open_page: Open, watched: Watched) -> None:
    page = open_page("#overview")
    page.route("**/api/v1/workers", lambda route: route.fulfill(json={"devices": [], "nodes": []}))
    page.goto(page.url.replace("#overview", "#devices"))
    page.reload()
    shown = page.locator("#devices .body")
    expect(shown).to_contain_text("No node has reported yet.")
    watched.away = True
    page.route("**/api/v1/workers", refuse)
    page.get_by_role("button", name="Refresh").click()
    expect(shown).to_contain_text("The devices could not be loaded")
    expect(shown).not_to_contain_text("No node has reported yet.")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".health strong")).to_be_visible()
    expect(page.locator(".health")).not_to_contain_text("All is well")


def test_refreshing_does_not_multiply_the_attempts_to_connect(open_page: Open) -> None:
    page = open_page()
    page.add_init_script(BLOCKABLE)
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")
    page.evaluate("() => { blocked = true; sockets.at(-1).close(); }")
    expect(page.locator("#connection")).to_have_text("updates every 5 s")
    page.evaluate(
        """() => {
        const [set, clear] = [window.setTimeout, window.clearTimeout];
        window.waits = new Set();
        window.setTimeout = (act, wait, ...given) => {
            const timer = set(() => { waits.delete(timer); act(...given); }, wait);
            if (String(act).includes("connect()")) waits.add(timer);
            return timer;
        };
        window.clearTimeout = (timer) => { waits.delete(timer); clear(timer); };
    }"""
    )
    for _ in range(5):
        before = page.evaluate("refused")
        page.get_by_role("button", name="Refresh").click()
        wait_for(lambda before=before: page.evaluate("refused") > before, 10, "an attempt")  # type: ignore[misc]
        assert page.evaluate("waits.size") == 1


@pytest.mark.parametrize("address", ["job/%", "job/%E0%A4%A", "flow/%", "flow/%E0%A4%A"])
def test_a_damaged_link_is_one_to_something_that_is_not_there(open_page: Open, watched: Watched, address: str) -> None:
    page = open_page(f"#{address}")
    if address.startswith("job"):
        expect(page.get_by_role("dialog", name="Job not found")).to_be_visible()
    else:
        expect(page.locator("#flows")).to_contain_text("No flow has this id.")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator(".toast")).to_have_count(0)
    assert all("404" in complaint for complaint in watched.complaints), watched.complaints
    watched.complaints.clear()


def test_a_part_that_needs_no_answer_is_no_data(open_page: Open, stack: Stack, watched: Watched) -> None:
    page = open_page()
    watched.away = True
    page.route_web_socket(re.compile("/dashboard/ws$"), lambda socket: socket.close(code=1011))
    page.route("**/api/**", refuse)
    page.route("**/healthz", refuse)
    load(page, stack, "new")
    expect(page.locator("#connection")).to_have_text("disconnected, no data yet")
    expect(page.locator("#notice")).to_contain_text("There is no data yet; connecting.")


@pytest.mark.parametrize(
    ("view", "never"),
    [
        ("overview", ("Nothing is paused.", "queue is empty", "All is well")),
        ("alerts", ("No open alerts.", "No resolved alerts yet.")),
        ("flows", ("No flows yet.",)),
        ("models", ("No LoRAs yet.",)),
    ],
)
def test_where_loading_again_fails_nothing_is_said_to_be_none(
    open_page: Open, watched: Watched, view: str, never: tuple[str, ...]
) -> None:
    page = open_page(f"#{view}")
    shown = page.locator(f"#{view} .body")
    expect(page.locator("#connection")).to_have_text("live")
    expect(shown).not_to_contain_text(re.compile("loading", re.IGNORECASE))
    watched.away = True
    page.route("**/api/**", refuse)
    page.get_by_role("button", name="Refresh").click()
    expect(shown).to_contain_text(re.compile(r"could not be loaded: .*Last loaded at \d|as of \d"))
    for text in never:
        expect(shown).not_to_contain_text(text)
    page.unroute("**/api/**", refuse)
    page.get_by_role("button", name="Refresh").click()
    expect(shown).not_to_contain_text(re.compile("could not be loaded|as of "))


def test_while_the_server_is_lost_figures_say_how_old_they_are(open_page: Open, watched: Watched) -> None:
    page = open_page()
    overview = page.locator("#overview .body")
    expect(overview).to_contain_text("Nothing is paused.")
    watched.away = True
    page.context.set_offline(True)
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#connection")).to_contain_text("disconnected")
    for tile in ("Running", "Queued", "Throughput", "Models", "Disk used"):
        expect(overview.locator(".tile").filter(has_text=tile)).to_contain_text(re.compile(r"as of \d"))
    expect(overview).not_to_contain_text("Nothing is paused.")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_text("live")
    expect(overview).to_contain_text("Nothing is paused.")
    expect(overview).not_to_contain_text("as of ")


@pytest.mark.parametrize("view", ["jobs", "gallery"])
def test_pictures_that_could_not_be_loaded_are_loaded_with_refresh_and_when_the_server_is_back(
    open_page: Open, stack: Stack, watched: Watched, view: str
) -> None:
    job = stack.submit(prompt="seen again")
    assert stack.wait_status(job)["status"] == "succeeded"
    page = open_page()
    watched.away = True
    pictures = re.compile("thumbnail")
    page.route(pictures, refuse)
    load(page, stack, view)
    shown = page.locator(f"#{view} [data-job='{job}'] .frame")
    expect(shown.locator("svg")).to_be_visible()
    expect(shown.locator("img")).to_have_count(0)  # not the browser's sign of a broken one
    page.unroute(pictures, refuse)
    page.get_by_role("button", name="Refresh").click()
    expect(shown.locator("img")).to_be_visible()
    page.route(pictures, refuse)
    load(page, stack, view)
    expect(shown.locator("svg")).to_be_visible()
    page.context.set_offline(True)
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#connection")).to_contain_text("disconnected")
    page.unroute(pictures, refuse)
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_text("live")
    expect(shown.locator("img")).to_be_visible()
