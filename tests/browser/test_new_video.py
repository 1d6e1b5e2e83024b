"""Use the form for a new video in a real browser: estimate, drafts, presets, past prompts, pictures, reuse."""

import base64
import re
import struct
import zlib
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from shared import clock
from tests.browser.conftest import Open, Watched
from tests.browser.test_accessibility import serious
from tests.browser.test_live_page import choose_model, choose_size, later, open_advanced, submit
from tests.support.stack import Stack, wait_for
from wanworks.requests import GenerationRequest


def png(width: int, height: int) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + b"\x80" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def transfer(page: Page, content: bytes, name: str, kind: str) -> Any:
    """A DataTransfer with one file."""
    return page.evaluate_handle(
        """([content, name, kind]) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            const made = new DataTransfer();
            made.items.add(new File([bytes], name, { type: kind }));
            return made;
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )


def test_the_form_is_filled_and_sent_by_keyboard_and_keeps_its_draft(open_page: Open, stack: Stack) -> None:
    page = open_page("#new")
    page.get_by_label("Prompt", exact=True).fill("kept over a reload")
    choose_size(page, "96x64")
    page.get_by_label("Length, seconds").fill("1")
    expect(page.get_by_label("Frames", exact=True)).to_have_value("9")  # 8 frames a second
    page.get_by_label("Frames", exact=True).fill("13")
    expect(page.get_by_label("Length, seconds")).to_have_value("1.63")
    choose_model(page, "T2V-A14B-Lightning")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("kept over a reload")
    expect(page.get_by_label("Frames", exact=True)).to_have_value("13")
    choose_model(page, "T2V-A14B")
    page.reload()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("kept over a reload")
    expect(page.locator("input[name=resolution]:checked")).to_have_value("96x64")
    expect(page.get_by_label("Frames", exact=True)).to_have_value("13")
    expect(page.locator(".make-bar")).to_contain_text("Starts")
    expect(page.get_by_role("button", name="Create video")).to_be_in_viewport()
    open_advanced(page)
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+Enter")
    mine = page.locator("[data-submitted]").first
    expect(mine).to_contain_text("kept over a reload")
    made = stack.job(mine.get_attribute("data-submitted") or "")
    assert (made["params"]["resolution"], made["params"]["frames"], made["params"]["steps"]) == ("96x64", 13, 2)
    page.get_by_label("Prompt", exact=True).fill("")
    page.get_by_text("Past prompts").click()
    page.get_by_role("button", name="kept over a reload", exact=True).click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("kept over a reload")


def test_sizes_are_in_groups_and_what_is_chosen_stands_beside_the_button(open_page: Open) -> None:
    page = open_page("#new", viewport={"width": 1280, "height": 720})
    choose_model(page, "T2V-A14B")
    button, chosen = page.get_by_role("button", name="Create video"), page.locator(".make-go")
    expect(chosen).to_contain_text(re.compile("256.256 · 2[.]1 s · speed: exact"))
    expect(button).to_have_accessible_description(re.compile("256.256 · 2[.]1 s · speed: exact"))
    landscape = page.locator(".sizes > .size-group").filter(has_text="Landscape").locator("input")
    expect(landscape).to_have_count(3)
    assert "832x480" in [one.get_attribute("value") for one in landscape.all()]
    more = page.get_by_text("More sizes")
    expect(page.get_by_role("radio", name="832 by 480, about 16:9 wide")).to_be_visible()
    twin = page.get_by_role("radio", name="854 by 480, 16:9 wide")
    expect(twin).to_be_hidden()
    more.click()
    twin.check()
    page.get_by_role("radio", name="fast", exact=True).check()
    page.get_by_label("Frames", exact=True).fill("9")
    page.get_by_label("Videos").fill("3")
    expect(chosen).to_contain_text(re.compile("854.480 · 1[.]1 s · speed: fast · 3 videos"))
    page.reload()
    expect(twin).to_be_visible()


def test_a_model_that_is_chosen_stays_where_it_was_clicked(open_page: Open) -> None:
    page = open_page("#new")
    choose_model(page, "T2V-A14B")
    tile = page.locator(".choice").filter(has_text="I2V-A14B").first
    before = tile.bounding_box()
    choose_model(page, "I2V-A14B")
    expect(page.locator(".picture")).to_be_visible()
    assert tile.bounding_box() == before


def test_the_message_that_a_job_is_queued_ends_once_it_runs(open_page: Open, stack: Stack) -> None:
    page = open_page("#new")
    page.clock.install()  # the message would be closed after five seconds
    choose_model(page, "T2V-A14B")
    stack.request("POST", "/api/v1/queues/pause", json={"reason": "a test"})
    try:
        submit(page, "no longer queued")
        page.clock.run_for(1000)
        expect(page.locator("#toasts")).to_contain_text("The job is queued.")
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={})
    stack.wait_status(page.locator("[data-submitted]").first.get_attribute("data-submitted") or "")
    page.clock.run_for(2000)
    expect(page.locator("#toasts")).not_to_contain_text("The job is queued.")


def covers(page: Page) -> str | None:
    """Return what a click on the middle of "Create video" would hit instead of it."""
    found: str | None = page.evaluate("""() => {
        const button = document.querySelector(".make-go button");
        const { x, y, width, height } = button.getBoundingClientRect();
        const hit = document.elementFromPoint(x + width / 2, y + height / 2);
        return hit === button ? null : hit.outerHTML;
    }""")
    return found


@pytest.mark.parametrize("width", [1024, 390])
def test_messages_leave_the_button_free_and_the_newest_job_is_seen_beside_it(
    open_page: Open, stack: Stack, width: int
) -> None:
    page = open_page("#new", viewport={"width": width, "height": 844})
    choose_model(page, "T2V-A14B")
    toast, newest = page.locator(".toast"), page.locator(".make-bar .newest-link")
    stack.request("POST", "/api/v1/queues/pause", json={"reason": "a test"})
    try:
        submit(page, "its entry is below the edge")
        expect(toast).to_contain_text("The job is queued.")
        assert covers(page) is None
        expect(newest).to_be_in_viewport(ratio=1)
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={})
    expect(toast).to_contain_text("Your video is ready: its entry is below the edge")
    expect(toast).to_have_count(1)
    assert covers(page) is None
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(100)  # the next frame, in which scrolling is noticed
    assert covers(page) is None
    expect(newest).to_contain_text("succeeded")
    expect(newest.locator("img")).to_be_in_viewport(ratio=1)
    mine = page.locator("[data-submitted]").first.get_attribute("data-submitted") or ""
    expect(newest).to_have_attribute("href", f"#job/{mine}")
    toast.get_by_role("link", name="Open").click()
    expect(page).to_have_url(re.compile(f"#job/{mine}$"))
    expect(page.get_by_role("dialog")).to_contain_text("its entry is below the edge")
    expect(toast).to_have_count(0)


def test_wrong_numbers_are_named_in_plain_words_and_in_the_order_of_the_form(open_page: Open, watched: Watched) -> None:
    page = open_page("#new")
    choose_model(page, "T2V-A14B")
    wrong = {
        "Flow shift": ("0", "more than 0, at most 100"),
        "Guidance (high)": ("31", "0 to 30"),
        "Steps": ("0", "2 to 100"),
        "Videos": ("17", "1 to 16"),
        "Frames": ("9999", "8 to 81"),
    }
    submit(page, "far too much", **{label: value for label, (value, _) in wrong.items()})
    for label, (_, words) in wrong.items():
        field = page.get_by_label(label, exact=True)
        expect(field).to_have_accessible_description(re.compile(re.escape(words)))
        expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Frames", exact=True)).to_be_focused()
    named = "5 fields to correct: Frames, Videos, Steps, Guidance (high), Flow shift"
    expect(page.locator(".make-bar .estimate p")).to_have_text(named)
    line = "field => getComputedStyle(field).borderTopColor"
    marked = page.get_by_label("Videos", exact=True).evaluate(line)
    assert page.get_by_label("Length, seconds").evaluate(line) == marked, "it follows the frames"
    assert not [one for one in watched.requests if one.method == "POST" and one.url.endswith("/generation")]

    page.get_by_label("Frames", exact=True).fill("9")
    page.get_by_label("Length, seconds").fill("99")
    page.get_by_role("button", name="Create video").click()
    expect(page.locator("#e-seconds")).to_have_text("1 to 10.13")
    page.get_by_label("Frames", exact=True).fill("9")
    expect(page.locator("#e-seconds")).to_have_count(0)

    limits = GenerationRequest.model_json_schema()
    for name in ("guidance_scale", "guidance_scale_2", "flow_shift", "count", "seed"):
        rule = limits["properties"][name]
        rule = rule.get("anyOf", [rule])[0]
        field = page.locator(f"#f-{name}")
        least = rule.get("exclusiveMinimum", rule.get("minimum"))
        assert float(field.get_attribute("min") or "") == (0 if name == "seed" else least), name
        assert float(field.get_attribute("max") or "") == rule["maximum"], name
        assert (field.get_attribute("data-above") is not None) == ("exclusiveMinimum" in rule), name


def test_what_the_server_refuses_is_said_at_each_field(open_page: Open, watched: Watched) -> None:
    page = open_page("#new")

    def spoil(route: Route) -> None:
        """Send what the page itself would not: the answer is the server's."""
        sent = {
            **(route.request.post_data_json or {}),
            "steps": 0,
            "webhook_url": f"https://example.com/{'x' * 2000}",
            "loras": [{"name": "one"}] * 9,
            "start_after": True,
        }
        route.continue_(post_data=sent)

    page.route("**/api/v1/jobs/generation", spoil)
    submit(page, "refused")
    expect(page.locator("#e-steps")).to_have_text("must be at least 1, not 0")
    expect(page.locator("#e-webhook_url")).to_have_text("must have at most 2000 characters, not 2020")
    expect(page.locator("#e-loras")).to_have_text("must have at most 8 items, not 9")
    bar = page.locator(".make-bar .estimate")
    expect(bar).to_contain_text("3 fields to correct: Steps, LoRAs, Webhook")
    expect(bar).to_contain_text("Not created. Start after: must be a time")
    assert "422" in watched.complaints.pop()


@pytest.mark.parametrize("width", [1400, 390])
def test_a_submission_that_fails_says_so_beside_the_button_and_is_tried_again(
    open_page: Open, stack: Stack, watched: Watched, width: int
) -> None:
    page = open_page("#new", viewport={"width": width, "height": 844})
    watched.away = True
    choose_model(page, "T2V-A14B")
    told, create = page.locator(".make-bar .estimate"), page.get_by_role("button", name="Create video")
    keys: list[str | None] = []
    answers: list[int | None] = [503, 403, 429, None]

    def answer(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        status = answers.pop(0) if answers else 0
        if status is None:
            route.abort("connectionrefused")
        elif status:
            route.fulfill(status=status, json={"detail": f"Refused with {status}."})
        else:
            route.continue_()

    page.route("**/api/v1/jobs/generation", answer)
    submit(page, "sent until it is accepted")
    again = told.get_by_role("button", name="Try again")
    expect(told).to_contain_text("Not created. Refused with 503.")
    expect(told).to_be_in_viewport(ratio=1)
    assert told.get_attribute("aria-live") == "polite", "it is announced"
    expect(told).not_to_contain_text("Starts")
    focused = page.locator(".make-bar button:focus")
    expect(focused).to_have_count(1)  # the button that had the focus was disabled meanwhile
    again.click()
    expect(told).to_contain_text("Not created. Refused with 403.")
    expect(again).to_have_count(0)  # the same request would be refused again
    expect(focused).to_have_count(1)
    page.get_by_label("Frames", exact=True).fill("13")
    expect(told).not_to_contain_text("Not created")
    create.click()
    expect(told).to_contain_text("Not created. Refused with 429.")
    page.get_by_role("button", name="Add a LoRA").click()
    expect(told).not_to_contain_text("Not created")
    page.get_by_role("button", name="Remove LoRA 1").click()
    create.click()
    expect(told).to_contain_text(
        re.compile(r"The server (does|did) not respond.*\. Trying again creates nothing twice\.")
    )
    again.click()
    expect(page.locator("[data-submitted]")).to_have_count(1)
    expect(told).not_to_contain_text("Trying again")
    assert keys[0] == keys[1], "the same request"
    assert keys[3] == keys[4]
    assert len(set(keys)) == 3
    watched.complaints = [one for one in watched.complaints if "the server responded with a status" not in one]


def test_many_loras_are_counted_beside_the_button_and_one_that_is_left_out_is_the_right_one(open_page: Open) -> None:
    page = open_page("#new")
    choose_model(page, "T2V-A14B")
    open_advanced(page)
    for number, name in enumerate(("first", "second", "third"), start=1):
        page.get_by_role("button", name="Add a LoRA").click()
        page.get_by_label(f"LoRA {number}", exact=True).fill(name)
    bar = page.locator(".make-chosen")
    page.get_by_label("Prompt", exact=True).focus()
    bar.get_by_role("link", name="3 LoRAs").click()
    expect(page.get_by_label("LoRA 1", exact=True)).to_be_focused()
    page.get_by_role("button", name="Remove LoRA 1").click()
    expect(bar.locator(".chip")).to_have_text(["LoRA second✕", "LoRA third✕"])
    bar.get_by_role("button", name="LoRA second, leave it out").click()
    expect(bar.locator(".chip")).to_have_text(["LoRA third✕"])
    expect(page.get_by_label("LoRA 1", exact=True)).to_have_value("third")
    choose_model(page, "I2V-A14B")
    choose_model(page, "T2V-A14B")
    expect(page.get_by_label("LoRA 1", exact=True)).to_have_value("third")


def test_several_videos_are_counted_on_the_button_and_beside_it(open_page: Open, stack: Stack, paused: None) -> None:
    page = open_page("#new", viewport={"width": 390, "height": 844})
    choose_model(page, "T2V-A14B")
    create, newest = page.locator(".make-go .primary"), page.locator(".make-bar .newest-link")
    page.get_by_label("Videos").fill("99")
    expect(create).to_have_text("Create video")
    page.get_by_label("Videos").fill("4")
    expect(create).to_have_text("Create 4 videos")
    submit(page, "four of a kind", Videos="4")
    expect(newest).to_contain_text("0 of 4 ready · next: ")
    expect(newest).to_have_attribute("href", re.compile("^#jobs[?]batch_id="))
    stack.request("POST", "/api/v1/queues/resume", json={})
    expect(newest).to_contain_text("4 of 4 ready: four of a kind", timeout=90_000)
    expect(newest.locator("img")).to_be_visible()
    newest.click()
    expect(page.locator("#jobs tbody [data-job], #jobs tr[data-job]")).to_have_count(4)


def test_a_pause_is_named_beside_the_button_and_ended_there(open_page: Open, stack: Stack) -> None:
    page = open_page("#new")
    bar = page.locator(".make-bar")
    expect(bar).to_contain_text("Starts")
    stack.request("POST", "/api/v1/queues/pause", json={"reason": "a test"})
    try:
        expect(bar).to_contain_text("The queue is paused. Your video starts when it is resumed.")
        expect(bar).not_to_contain_text("not known")
        bar.get_by_role("button", name="Resume the queue").click()
        expect(bar).to_contain_text("Starts")
        expect(bar).not_to_contain_text("paused")
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={})


def test_the_end_follows_from_the_times_and_the_card_from_the_estimate(open_page: Open, stack: Stack) -> None:
    """The answers are replaced: no forecast of the end, and a model that is loaded after the page has read it."""
    page = open_page("#alerts")
    cost: dict[str, float | None] = {"generation_seconds": 6.1, "loading_seconds": 0, "gpu_seconds": 6.1}
    loaded = [False]

    def estimate(route: Route) -> None:
        answer = route.fetch().json()
        start = clock.iso(clock.now())
        answer["cost"] = {**answer["cost"], **cost}
        answer["expected"] = {"start_at": start, "end_at": None, "how": ""}
        loaded[0] = cost["loading_seconds"] == 0
        route.fulfill(json=answer)

    def status(route: Route) -> None:
        answer = route.fetch().json()
        for model in answer["models"].values():
            model["is_loaded"] = loaded[0]
        route.fulfill(json=answer)

    page.route("**/api/v1/jobs/generation?dry_run=true", estimate)
    page.route("**/api/v1/models/status/detailed", status)
    page.goto(f"{stack.url}/#new")
    facts = page.locator(".estimate-facts")
    expect(facts).to_contain_text(re.compile(r"Ends\s*in about 6.s"))
    chosen = page.locator(".choice:has(input[name=model_id]:checked)")
    expect(chosen).to_contain_text("loaded")
    cost.update(loading_seconds=None, gpu_seconds=None)
    page.get_by_label("Frames", exact=True).fill("13")
    expect(facts).to_contain_text(re.compile(r"Ends\s*not known"))
    expect(facts).to_contain_text("after loading")
    expect(chosen).to_contain_text("ready")


def test_the_ways_without_the_model_are_explained_and_tried_in_their_order(open_page: Open) -> None:
    page = open_page("#new")
    open_advanced(page)
    ways = page.locator("fieldset").filter(has_text="If the model is not ready")
    expect(ways).to_contain_text("With none, the video waits for its model.")
    values = [one.get_attribute("value") for one in ways.locator("input").all()]
    assert values[-2:] == ["mock_generation", "queue_and_wait"], "what always applies is last"


def test_a_quiet_button_has_the_colour_of_what_can_be_done(open_page: Open) -> None:
    page = open_page("#new")
    colour = "element => getComputedStyle(element).color"
    accent = page.get_by_role("link", name="New video").evaluate("element => getComputedStyle(element).backgroundColor")
    assert page.locator("summary.quiet", has_text="Presets").evaluate(colour) == accent


def test_a_draft_that_was_not_sent_is_set_aside_for_the_settings_of_a_job(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="made before", seed=77)
    stack.wait_status(job)
    page = open_page("#new")
    page.clock.install()
    prompt, picture, toasts = (
        page.get_by_label("Prompt", exact=True),
        page.locator(".picture").first,
        page.locator("#toasts"),
    )
    choose_model(page, "I2V-A14B")
    prompt.fill("a long idea, not sent yet")
    page.get_by_label("Frames", exact=True).fill("13")
    page.locator("#f-image").set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": png(90, 80)})
    expect(picture).to_contain_text("mine.png")
    page.evaluate(f"location.hash = 'new?from={job}'")
    expect(prompt).to_have_value("made before")
    expect(page.locator(".picture img")).to_have_count(0)
    toasts.get_by_role("button", name="New seed").click()
    page.clock.run_for(60_000)
    toasts.get_by_role("button", name="Back to my draft").click()
    expect(prompt).to_have_value("a long idea, not sent yet")
    expect(page.get_by_role("radio", name="I2V-A14B", exact=True)).to_be_checked()
    expect(page.get_by_label("Frames", exact=True)).to_have_value("13")
    expect(picture).to_contain_text("mine.png")
    expect(page).to_have_url(re.compile("#new$"))
    expect(toasts.get_by_role("button", name="Back to my draft")).to_have_count(0)

    page.evaluate(f"location.hash = 'new?from={job}'")  # the same job again, and then a visit later
    expect(prompt).to_have_value("made before")
    page.goto(f"{stack.url}/#new")
    page.reload()
    expect(prompt).to_have_value("made before")
    page.get_by_text("Past prompts").click()
    expect(page.get_by_role("button", name="a long idea, not sent yet")).to_be_visible()
    toasts.get_by_role("button", name="Back to my draft").click()
    expect(prompt).to_have_value("a long idea, not sent yet")
    page.reload()
    expect(prompt).to_have_value("a long idea, not sent yet")
    expect(toasts.get_by_role("button", name="Back to my draft")).to_have_count(0)


def test_a_fixed_seed_stands_beside_the_button_and_is_given_up_there(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="the same once more", seed=2256534947)
    stack.wait_status(job)
    page = open_page("#new")
    seed = page.locator(".make-go").get_by_role("button", name="Seed 2256534947, use a new one")
    expect(page.locator("#chosen")).to_contain_text("speed:")
    expect(page.locator(".make-go .chip")).to_have_count(0)
    page.evaluate(f"location.hash = 'new?from={job}'")
    expect(seed).to_have_text("seed 2256534947✕")
    page.get_by_role("button", name="Create video").click()
    expect(page.locator("[data-submitted]")).to_have_count(1)
    expect(seed).to_be_visible()  # it is still fixed: the next job would be the same
    page.reload()
    assert serious(page) == []
    seed.focus()
    page.keyboard.press("Enter")
    expect(seed).to_have_count(0)
    expect(page.get_by_role("button", name="Create video")).to_be_focused()
    open_advanced(page)
    expect(page.get_by_label("Seed", exact=True)).to_have_value("")
    page.get_by_role("button", name="Create video").click()
    expect(page.locator("[data-submitted]")).to_have_count(2)
    newest, before = (one.get_attribute("data-submitted") or "" for one in page.locator("[data-submitted]").all())
    assert stack.job(before)["params"]["seed"] == 2256534947
    assert stack.job(newest)["params"]["seed"] != 2256534947
    page.get_by_label("Seed", exact=True).fill("5")
    expect(page.locator(".make-go .chip")).to_have_text("seed 5✕")


def test_a_preset_is_saved_applied_and_removed(open_page: Open) -> None:
    page = open_page("#new")
    choose_size(page, "128x128")
    page.get_by_text("Presets").click()
    page.get_by_label("Name of a new preset").fill("square")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("saved in this browser")
    choose_size(page, "64x64")
    page.get_by_text("Presets").click()
    page.get_by_role("button", name="square", exact=True).click()
    expect(page.locator("input[name=resolution]:checked")).to_have_value("128x128")
    page.get_by_text("Presets").click()
    page.get_by_role("button", name="Remove the preset square").click()
    expect(page.get_by_role("button", name="square", exact=True)).to_have_count(0)


def test_a_picture_is_dropped_pasted_checked_and_reused(open_page: Open, stack: Stack) -> None:
    page = open_page("#new")
    choose_model(page, "I2V-A14B")
    page.locator("h1#h-new").dispatch_event(
        "drop", {"dataTransfer": transfer(page, b"GIF89a", "moving.gif", "image/gif")}
    )
    expect(page.locator("#e-image")).to_contain_text("PNG, JPEG and WebP are accepted")
    page.locator("h1#h-new").dispatch_event("drop", {"dataTransfer": transfer(page, b"no", "no.png", "image/png")})
    expect(page.locator("#e-image")).to_contain_text("cannot be read as a picture")
    page.locator("h1#h-new").dispatch_event(
        "drop", {"dataTransfer": transfer(page, png(120, 80), "grey.png", "image/png")}
    )
    expect(page.locator(".picture").first).to_contain_text(re.compile("grey.png: 120 . 80"))
    submit(page, "a grey field comes to life")
    mine = page.locator("[data-submitted]").first
    expect(mine).to_contain_text("succeeded", timeout=60_000)
    job = mine.get_attribute("data-submitted")

    page.goto(f"{stack.url}/#job/{job}")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_alt_text("The picture that the video starts from")).to_be_visible()
    assert stack.request("GET", f"/api/v1/jobs/{job}/image").headers["content-type"] == "image/png"
    dialog.get_by_role("link", name="Reuse:").click()
    expect(page.locator(".picture").first).to_contain_text(re.compile("120 . 80"))
    open_advanced(page)
    expect(page.get_by_label("Seed", exact=True)).not_to_have_value("")
    page.locator("#toasts").get_by_role("button", name="New seed").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("")


def test_requests_are_copied_with_the_address_and_without_the_key(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="it's copied", seed=77)
    stack.wait_status(job)
    short = {"width": 1280, "height": 780}  # where the menu has no room below its button
    page = open_page(f"#job/{job}", permissions=["clipboard-read", "clipboard-write"], viewport=short)
    dialog = page.get_by_role("dialog")
    for name, parts in (
        ("As curl", (stack.url, "$WANWORKS_API_KEY", "it'\\''s copied", '"seed": 77')),
        ("As Python", (stack.url, 'os.environ["WANWORKS_API_KEY"]', 'prompt="it\'s copied"', "seed=77")),
        ("Seed", ("77",)),
        ("Job id", (job,)),
    ):
        dialog.locator(".copies summary").click()
        expect(dialog.get_by_role("button", name="As Python")).to_be_in_viewport(ratio=1)
        dialog.get_by_role("button", name=name, exact=True).click()
        expect(dialog.locator(".copies ul")).to_be_hidden()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert all(part in copied for part in parts), copied
    expect(dialog.get_by_role("link", name="Download")).to_have_attribute("download", f"{job}-video.mp4")
    dialog.get_by_text("Last lines of the log").click()
    expect(dialog.locator("details.log").get_by_role("button", name="Read again")).to_be_visible()
    page = open_page(f"#job/{job}", viewport={"width": 390, "height": 844})
    page.locator(".copies summary").click()
    page.wait_for_function("""() => {  // it is placed once it is open
        const menu = document.querySelector(".copies ul").getBoundingClientRect();
        return menu.width > 0 && menu.left >= 0 && menu.right <= 390;
    }""")


def test_a_shared_link_is_shown_with_its_end_and_copied_where_the_browser_allows_it(
    open_page: Open, stack: Stack
) -> None:
    job = stack.submit(prompt="shown to others")
    stack.wait_status(job)
    page = open_page(f"#job/{job}", permissions=["clipboard-read", "clipboard-write"])
    dialog = page.get_by_role("dialog")
    link = dialog.get_by_role("textbox", name="Link to the video")
    expect(link).to_have_count(0)
    dialog.get_by_role("button", name="Share").click()
    expect(dialog.get_by_role("button", name="Copied")).to_be_focused()
    expect(page.locator(".toast")).to_have_count(0)  # the button says it, and nothing covers the dialog
    shown = link.input_value()
    assert shown == page.evaluate("navigator.clipboard.readText()")
    assert shown.startswith(f"{stack.url}/api/v1/jobs/{job}/artifacts/video.mp4?")
    assert httpx.get(shown).content[4:8] == b"ftyp"
    expect(dialog.locator(".share")).to_contain_text(
        re.compile(r"Anyone with this link can open the video until .*\d{4}")
    )
    expect(dialog.locator(".share")).to_contain_text("This address works on this machine only")
    page.evaluate("navigator.clipboard.writeText('')")
    dialog.get_by_role("button", name="Copy the link").click()
    assert page.evaluate("navigator.clipboard.readText()") == shown

    page.evaluate("""() => {
        navigator.clipboard.writeText = () => Promise.reject(new Error("refused"));
        document.execCommand = () => false;
    }""")
    dialog.get_by_role("button", name="Share").click()
    expect(page.locator("#toasts")).to_contain_text("did not allow this page to copy the link")
    expect(link).to_be_focused()
    assert link.evaluate("field => field.selectionEnd - field.selectionStart") == len(shown)
    assert link.input_value() == shown, "the same link, not another one"


def test_a_video_is_shared_beside_its_download_and_from_the_message_that_it_is_ready(
    open_page: Open, stack: Stack
) -> None:
    page = open_page("#new", permissions=["clipboard-read", "clipboard-write"])
    choose_model(page, "T2V-A14B")
    submit(page, "shared where it appears")
    mine, toast = page.locator("[data-submitted]").first, page.locator(".toast")
    expect(mine).to_contain_text("succeeded", timeout=90_000)
    mine.get_by_role("button", name="Share: shared where it appears").click()
    expect(mine.get_by_role("button", name="Copied")).to_be_focused()
    shown = mine.get_by_role("textbox", name="Link to the video").input_value()
    assert shown == page.evaluate("navigator.clipboard.readText()")
    assert httpx.get(shown).content[4:8] == b"ftyp"
    expect(mine.locator(".share")).to_contain_text("wanworks keys create")
    page.evaluate("navigator.clipboard.writeText('')")
    expect(toast).to_contain_text("Your video is ready: shared where it appears")
    toast.get_by_role("button", name="Share").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Copied")).to_be_focused()
    assert page.evaluate("navigator.clipboard.readText()") == shown, "the same link"


def test_a_browser_that_opens_a_shared_link_plays_and_saves_the_video(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="known to its owner alone")
    stack.wait_status(job)
    made = stack.request("POST", f"/api/v1/jobs/{job}/artifacts/video.mp4/link", json={}).json()
    page = open_page(made["url"].removeprefix("/"), viewport={"width": 390, "height": 844})
    expect(page.get_by_role("heading", name="video.mp4")).to_be_visible()
    page.wait_for_function("document.querySelector('video').readyState >= 2")
    assert "known to its owner alone" not in page.content()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download").click()
    assert saved.value.suggested_filename == f"{job}-video.mp4"
    assert saved.value.path().read_bytes()[4:8] == b"ftyp"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not serious(page)


def test_the_tab_for_a_new_video_shows_its_sign_under_the_pointer(open_page: Open) -> None:
    page = open_page("#overview", viewport={"width": 390, "height": 844})
    tab = page.get_by_role("navigation").get_by_role("link", name="New")
    tab.hover()
    # The sign has the colour that the wide layout's button has as its ground.
    assert tab.evaluate("tab => getComputedStyle(tab).backgroundColor") == "rgba(0, 0, 0, 0)"


def test_an_expected_time_within_an_hour_is_counted(open_page: Open) -> None:
    page = open_page("#new")
    text = page.evaluate("""async () => {
        const main = document.querySelector("script[src*=main]").src;
        const { soon } = await import(main.replace("main.js", "base/format.js"));
        const now = Date.parse("2026-03-01T14:25:00Z");
        const after = (seconds) => soon(new Date(now + seconds * 1000).toISOString(), now);
        return [-20, 0, 3.4, 59, 600, 3540, 3600].map(after);
    }""")
    assert [one.replace("\u00a0", " ") for one in text[:6]] == [
        "now", "now", "in about 3 s", "in about 59 s", "in about 10 min", "in about 59 min",
    ]  # fmt: skip
    assert re.fullmatch(r"about .*25.*", text[6]), text[6]


def test_recent_jobs_are_there_after_a_reload_and_go_with_their_jobs(
    open_page: Open, watched: Watched, stack: Stack
) -> None:
    page = open_page("#new")
    choose_model(page, "T2V-A14B")
    submit(page, "kept by this browser")
    mine = page.locator("[data-submitted]")
    expect(mine).to_contain_text("succeeded", timeout=90_000)
    page.reload()
    expect(mine).to_contain_text("kept by this browser")
    expect(mine.get_by_role("link", name="Download")).to_be_visible()
    page.wait_for_timeout(500)
    expect(page.locator(".toast")).to_have_count(0)  # it had ended before
    expect(page.locator(".make-bar .newest")).to_have_count(0)
    stack.request("POST", "/api/v1/queues/pause", json={"reason": "a test"})
    try:
        submit(page, "ends after a reload")
        expect(mine).to_have_count(2)
        page.reload()
        expect(mine).to_have_count(2)
        page.get_by_role("link", name="All jobs").click()
        expect(page.get_by_role("heading", level=1, name="Jobs")).to_be_visible()
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={})
    expect(page.locator(".toast")).to_contain_text("Your video is ready: ends after a reload")
    page.go_back()
    page.get_by_role("link", name="Open: ends after a reload").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog", name="Delete this job?").get_by_role("button", name="Delete").click()
    expect(mine).to_have_count(1)
    kept = page.evaluate("JSON.parse(localStorage.getItem('wanworks.submitted'))")
    assert [len(one["requests"]) for one in kept] == [1]
    # A job that is deleted while no page is open is forgotten, too.
    gone = "01a22ce8-c102-7a64-835f-1beb9a94d33e"
    kept[0]["requests"].append({"ids": [gone]})
    page.evaluate("kept => localStorage.setItem('wanworks.submitted', JSON.stringify(kept))", kept)
    page.goto(f"{stack.url}/#new")
    page.reload()
    expect(mine).to_have_count(1)
    expect(mine).to_contain_text("kept by this browser")
    page.wait_for_function("JSON.parse(localStorage.getItem('wanworks.submitted'))[0].requests.length === 1")
    watched.complaints = [one for one in watched.complaints if gone not in one]  # its 404
    # Those of another key are not shown, and what is not a list of jobs is no error.
    page.evaluate("""() => {
        const kept = JSON.parse(localStorage.getItem("wanworks.submitted"));
        const broken = { key: "", requests: [{ ids: 3 }, null] };
        localStorage.setItem("wanworks.submitted", JSON.stringify([null, broken, { ...kept[0], key: "another" }]));
    }""")
    page.reload()
    expect(page.get_by_text("Jobs that you submit on this page appear here")).to_be_visible()


def test_the_newest_twenty_jobs_are_kept_for_each_of_five_keys(open_page: Open) -> None:
    page = open_page("#new")
    counts = page.evaluate("""async () => {
        const main = document.querySelector("script[src*=main]").src;
        const { rememberSubmitted, submitted } = await import(main.replace("main.js", "new/stored.js"));
        const others = [1, 2, 3, 4, 5].map((number) => ({ key: `key ${number}`, requests: [{ ids: ["one"] }] }));
        localStorage.setItem("wanworks.submitted", JSON.stringify(others));
        for (let number = 0; number < 30; number += 1) rememberSubmitted({ ids: [`job ${number}`] });
        const ids = submitted().flatMap((one) => one.ids);
        return [ids.length, ids[0], ids.at(-1), JSON.parse(localStorage.getItem("wanworks.submitted")).length];
    }""")
    assert counts == [20, "job 29", "job 10", 5]


def test_a_message_and_its_buttons_are_above_the_dialog_that_is_open(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="cancelled in its dialog", start_after=later())
    page = open_page(f"#job/{job}")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Cancel:").click()
    dialog.locator("#toasts").get_by_role("button", name="Undo").click()  # refused if anything covers it
    expect(dialog.get_by_role("button", name="Cancel:")).to_have_text("Cancel")
    dialog.get_by_role("button", name="Delete").click()
    question = page.get_by_role("dialog", name="Delete this job?")
    page.evaluate("dispatchEvent(new Event('error'))")
    expect(question.locator("#toasts")).to_contain_text("An error occurred on this page.")
    question.locator(".toast.bad").get_by_role("button", name="Dismiss").click()
    question.get_by_role("button", name="Delete").click()
    expect(page.locator("body > #toasts")).to_contain_text("Deleted")
    expect(page.get_by_role("status").filter(has_text="Deleted")).to_be_visible()


HIDDEN = """() => {
    const field = document.activeElement;
    const { top, bottom } = field.getBoundingClientRect();
    if (!field.closest(".make-form") || bottom - top > 200) return null;
    const least = document.querySelector("header.top").getBoundingClientRect().bottom;
    const most = document.querySelector(".make-bar").getBoundingClientRect().top;
    return top < least || bottom > most ? `${field.id || field.textContent} at ${top} to ${bottom}` : null;
}"""


@pytest.mark.parametrize("size", [(1400, 900), (390, 844)])
@pytest.mark.parametrize("key", ["Tab", "Shift+Tab"])
def test_what_has_the_focus_is_clear_of_the_bars(open_page: Open, size: tuple[int, int], key: str) -> None:
    page = open_page("#new", viewport={"width": size[0], "height": size[1]})
    choose_model(page, "T2V-A14B")
    open_advanced(page)
    expect(page.locator(".make-bar")).to_contain_text("Device time")
    page.get_by_label("Prompt" if key == "Tab" else "Also send progress", exact=True).focus()
    for _ in range(40):
        page.keyboard.press(key)
        assert page.evaluate(HIDDEN) is None


def test_only_possible_numbers_of_devices_are_offered(open_page: Open, stack: Stack) -> None:
    devices = stack.request("GET", "/api/v1/workers").json()["devices"]
    page = open_page("#new")
    choose_model(page, "T2V-A14B")
    open_advanced(page)
    expect(page.locator("#connection")).to_have_text("live")
    possible = [size for size in (1, 2, 4) if size <= len(devices)]
    select = page.locator("select[name=devices_per_job]")
    if len(possible) == 1:
        expect(select).to_have_count(0)
    else:
        expect(select.locator("option")).to_have_text([str(size) for size in possible])


def test_space_plays_and_pauses_and_the_tab_has_the_jobs_name(open_page: Open, stack: Stack) -> None:
    job = stack.submit(prompt="played by Space")
    stack.wait_status(job)
    page = open_page(f"#job/{job}", reduced_motion="reduce")
    video = page.get_by_role("dialog").locator("video")
    expect(video).to_have_js_property("readyState", 4)
    expect(page).to_have_title(re.compile("played by Space · wanworks$"))
    assert video.evaluate("video => video.paused")
    page.keyboard.press(" ")
    expect(video).to_have_js_property("paused", False)
    page.keyboard.press(" ")
    expect(video).to_have_js_property("paused", True)
    page.keyboard.press("Escape")
    expect(page).not_to_have_title(re.compile("played by Space"))


def test_a_video_that_cannot_be_loaded_says_why(open_page: Open, stack: Stack, watched: Watched) -> None:
    job = stack.submit(prompt="cannot be loaded")
    stack.wait_status(job)
    page = open_page()
    watched.away = True
    answers: list[int | None] = [None]

    def answer(route: Route) -> None:
        if answers[0] is None:
            route.abort("connectionrefused")
        else:
            route.fulfill(status=answers[0])

    video = re.compile(f"{job}/artifacts/video")
    page.route(video, answer)
    page.goto(f"{stack.url}/#job/{job}")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The video could not be loaded. The server does not respond.")
    answers[0] = 404
    dialog.get_by_role("button", name="Try again").click()
    expect(dialog).to_contain_text("The video could not be loaded. Its file is no longer stored.")
    expect(dialog.get_by_role("button", name="Try again")).to_have_count(0)
    watched.complaints = [one for one in watched.complaints if "404" not in one]
    page.unroute(video)
    page.reload()
    expect(dialog.locator("video")).to_have_js_property("readyState", 4)


@pytest.mark.parametrize("width", [1400, 390])
def test_what_was_sent_is_cancelled_beside_the_form(open_page: Open, stack: Stack, width: int) -> None:
    stack.request("POST", "/api/v1/queues/pause", json={})
    try:
        page = open_page("#new", viewport={"width": width, "height": 844})
        choose_model(page, "T2V-A14B")
        submit(page, "taken back", Videos="3")
        place = page.locator(".newest" if width == 390 else ".make-side")
        place.get_by_role("button", name="Cancel all 3").click()
        page.wait_for_timeout(500)  # longer than the time in which a second click is no change of mind
        place.get_by_role("button", name="Undo the cancel of all").click()
        expect(place.get_by_role("button", name="Cancel all 3")).to_be_visible()
        page.wait_for_timeout(500)
        place.get_by_role("button", name="Cancel all 3").click()
        expect(page.locator("#toasts")).to_contain_text("Cancelling 3 jobs")
        expect(page.locator("[data-submitted] .badge")).to_have_text(["cancelled"] * 3)
        submit(page, "taken back alone", Videos="1")
        place.get_by_role("button", name="Cancel: taken back alone").click()
        expect(place.get_by_role("button", name="Undo the cancel: taken back alone")).to_be_visible()
        expect(page.locator("[data-submitted] .badge").first).to_have_text("cancelled")
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={})


def test_several_videos_are_made_at_once_and_shown_side_by_side(open_page: Open, stack: Stack) -> None:
    page = open_page("#new")
    choose_model(page, "T2V-A14B")
    submit(page, "seen side by side", Videos="2", Seed="40")
    expect(page.locator("#toasts")).to_contain_text("2 jobs are queued.")
    mine = page.locator("[data-submitted]")
    expect(mine).to_have_count(2)
    expect(mine.locator("video")).to_have_count(2, timeout=90_000)
    expect(page.locator(".toast")).to_contain_text("2 of 2 videos are ready.")
    expect(page.locator(".toast")).to_have_count(1)
    made = mine.first.get_attribute("data-submitted")
    download = mine.first.get_by_role("link", name="Download")
    expect(download).to_have_attribute("download", f"{made}-video.mp4")
    expect(mine.first.get_by_role("link", name="Open")).to_have_attribute("href", f"#job/{made}")
    expect(mine.first).to_contain_text("seed 40")
    expect(mine.last).to_contain_text("seed 41")
    first, second = (one.bounding_box() for one in mine.all())
    assert first is not None
    assert second is not None
    assert first["y"] == second["y"], "side by side"
    assert first["x"] + first["width"] <= second["x"]


KEPT = """() => new Promise((resolve) => {
    const asked = indexedDB.open("wanworks", 1);
    asked.onsuccess = () => {
        const keys = asked.result.transaction("pictures").objectStore("pictures").getAllKeys();
        keys.onsuccess = () => resolve(keys.result.join());
    };
})"""


def test_pictures_survive_a_reload_and_what_would_be_cut_off_is_said(open_page: Open, stack: Stack) -> None:
    page = open_page("#new")
    choose_model(page, "I2V-A14B")
    first, last = (page.get_by_label(name, exact=True) for name in ("Image", "Last image (optional)"))
    first.set_input_files({"name": "first.png", "mimeType": "image/png", "buffer": png(160, 80)})
    last.set_input_files({"name": "last.png", "mimeType": "image/png", "buffer": png(160, 80)})
    expect(page.locator(".picture").last).to_contain_text("last.png")
    wait_for(lambda: page.evaluate(KEPT) == "image,last_image", 10, "the browser keeps both")
    page.reload()
    expect(page.locator(".picture").first).to_contain_text("first.png")
    expect(page.locator(".picture").last).to_contain_text("last.png")
    page.locator(".picture").last.get_by_role("button", name="Remove").click()
    wait_for(lambda: page.evaluate(KEPT) == "image", 10, "the browser keeps the first")
    page.reload()
    expect(page.locator(".picture").first).to_contain_text("first.png")
    expect(page.locator(".picture img")).to_have_count(1)
    page.get_by_role("radio", name="256 by 256, square").check()
    form = page.get_by_role("form", name="New video")
    expect(form).to_contain_text(re.compile(r"At 256.256, 50\s% of the picture is cut off\."))
    page.get_by_role("button", name="Keep its shape").click()
    fit = page.get_by_label("Picture and size")
    expect(fit).to_have_value("auto")
    expect(fit).to_be_focused()
    expect(form).not_to_contain_text("cut off.")
    assert "first.png" in (page.locator(".picture").first.text_content() or "")


def test_an_emptied_number_of_frames_and_a_long_prompt_are_told(open_page: Open) -> None:
    page = open_page("#new")
    choose_model(page, "T2V-A14B")
    frames, seconds = (page.get_by_label(name, exact=True) for name in ("Frames", "Length, seconds"))
    usual = seconds.input_value()
    frames.fill("9")
    expect(seconds).not_to_have_value(usual)
    frames.fill("")
    expect(seconds).to_have_value(usual)
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("boat " * 1001)
    page.get_by_role("button", name="Create video").click()
    expect(page.locator("#e-prompt")).to_have_text("At most 5,000 characters; it has 5,005.")
    expect(prompt).to_be_focused()


def test_the_summary_follows_a_length_that_is_out_of_range_and_was_typed_for_this_model(open_page: Open) -> None:
    page = open_page("#new")
    choose_model(page, "I2V-A14B")
    choose_model(page, "T2V-A14B")
    page.get_by_label("Frames", exact=True).fill("400")
    expect(page.locator("#chosen")).to_contain_text(re.compile(r"· [2-9]\d(\.\d)? s ·"))


def test_the_last_image_and_its_fit_are_offered_where_the_model_takes_them(open_page: Open, stack: Stack) -> None:
    page = open_page("#new")
    first, last = (page.get_by_label(name, exact=True) for name in ("Image", "Last image (optional)"))
    fit = page.get_by_label("Picture and size")
    choose_model(page, "I2V-A14B")
    expect(last).to_have_count(0)
    expect(fit).to_have_count(0)
    first.set_input_files({"name": "first.png", "mimeType": "image/png", "buffer": png(120, 80)})
    expect(fit).to_have_value("cover")
    last.set_input_files({"name": "last.png", "mimeType": "image/png", "buffer": png(80, 80)})
    expect(page.locator(".picture").last).to_contain_text("last.png")
    choose_model(page, "TI2V-5B")  # it takes a first picture alone
    expect(page.get_by_label("Image (optional)", exact=True)).to_be_visible()
    expect(last).to_have_count(0)
    choose_model(page, "T2V-A14B")
    expect(page.locator(".picture")).to_have_count(0)
    expect(fit).to_have_count(0)
    choose_model(page, "I2V-A14B")
    fit.select_option("contain")
    submit(page, "from grey to grey")
    mine = page.locator("[data-submitted]").first
    expect(mine).to_contain_text("succeeded", timeout=90_000)
    params = stack.job(mine.get_attribute("data-submitted") or "")["params"]
    assert params["fit"] == "contain"
    assert params["last_image"]
