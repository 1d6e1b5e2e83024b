"""Use the live page in a real browser, from creating a video to losing the server."""

import os
import re
import signal
from datetime import UTC, datetime, timedelta

from playwright.sync_api import APIResponse, Page, Route, WebSocketRoute, expect

from shared import clock
from shared.cluster import alerts
from shared.cluster.alerts import Cause, Changes
from shared.database.engine import Database
from tests.browser.conftest import Open, Watched
from tests.support.stack import Stack

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def choose_size(page: Page, resolution: str) -> None:
    page.locator(".more-sizes").evaluate_all("all => all.forEach((details) => { details.open = true; })")
    page.locator(f"input[name=resolution][value='{resolution}']").check()


def open_advanced(page: Page) -> None:
    page.locator("#make-form details.advanced").evaluate("details => { details.open = true; }")


def choose_model(page: Page, model_id: str) -> None:
    page.get_by_role("radio", name=model_id, exact=True).check()


def submit(page: Page, prompt: str, resolution: str = "64x64", **fields: str) -> None:
    """Fill the form and send it, with small values by default."""
    small = {"Frames": "9", "Steps": "2", **fields}
    page.get_by_label("Prompt", exact=True).fill(prompt)
    choose_size(page, resolution)
    open_advanced(page)
    for label, value in small.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name=re.compile("^Create ([0-9]+ )?videos?$")).click()


def test_a_video_is_created_watched_and_played(open_page: Open, watched: Watched) -> None:
    page = open_page("#new")
    page.evaluate("""
        window.seen = [];
        new MutationObserver(() => {
            const bar = document.querySelector('[data-submitted] progress');
            if (bar) seen.push(bar.value);
        }).observe(document.body, {subtree: true, attributes: true});
    """)
    submit(page, "a paper boat in the rain", "128x128", Frames="17", Steps="40")
    mine = page.locator("[data-submitted]").first
    expect(mine).to_contain_text("a paper boat in the rain")
    expect(mine).to_contain_text("succeeded", timeout=60_000)
    values = page.evaluate("[...new Set(seen)]")
    assert len(values) > 3, "the progress bar moves"
    assert values == sorted(values), "progress never goes back"

    mine.get_by_role("link", name="a paper boat in the rain", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Time by phase")).to_be_visible()
    expect(dialog.get_by_text(re.compile("^128.128$"))).to_be_visible()
    video = dialog.locator("video")
    assert video.evaluate("video => video.play().then(() => true)")
    page.wait_for_function("() => document.querySelector('dialog video').currentTime > 0.2")
    video.evaluate("video => video.pause()")
    sought = """video => new Promise(resolve => {
        video.addEventListener('seeked', () => resolve(video.currentTime), {once: true});
        video.currentTime = video.duration / 2;
    })"""
    assert abs(video.evaluate(sought) - video.evaluate("video => video.duration") / 2) < 0.1
    media = [request for request in watched.requests if request.resource_type == "media"]
    answered = [request.response() for request in media]
    assert any(answer is not None and answer.status == 206 for answer in answered), "the video is fetched by ranges"

    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(re.compile("#new$"))
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a paper boat in the rain")


def test_the_form_adapts_to_the_model_and_shows_errors_at_fields(open_page: Open) -> None:
    page = open_page("#new")
    open_advanced(page)
    choose_model(page, "T2V-A14B")
    expect(page.get_by_label("Image", exact=True)).to_be_hidden()
    expect(page.get_by_label("Guidance (low)")).to_be_visible()
    choose_model(page, "T2V-A14B-Lightning")
    for label, value in (("Steps", "4"), ("Guidance (high)", "1"), ("Guidance (low)", "1"), ("Flow shift", "5")):
        expect(page.get_by_label(label, exact=True)).to_be_disabled()
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.locator("#about-T2V-A14B-Lightning")).to_contain_text("A preset of T2V-A14B.")
    page.get_by_label("Prompt", exact=True).fill("a preset drifts")
    choose_size(page, "64x64")
    page.get_by_label("Frames", exact=True).fill("9")
    page.get_by_role("button", name="Create video").click()
    expect(page.locator("[data-submitted]").filter(has_text="a preset drifts")).to_be_visible()
    choose_model(page, "TI2V-5B")
    expect(page.get_by_label("Guidance (low)")).to_be_hidden()
    expect(page.get_by_label("Steps", exact=True)).to_be_enabled()
    choose_model(page, "I2V-A14B")
    submit(page, "it moves")
    expect(page.get_by_text("I2V-A14B needs an image to start from.")).to_be_visible()
    expect(page.get_by_label("Image", exact=True)).to_be_focused()

    picture = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
        "0000000049454e44ae426082"
    )
    page.get_by_label("Image", exact=True).set_input_files(
        {"name": "dot.png", "mimeType": "image/png", "buffer": picture}
    )
    expect(page.get_by_alt_text("The chosen image")).to_be_visible()
    page.get_by_role("button", name="Create video").click()
    moving = page.locator("[data-submitted]").filter(has_text="it moves")
    expect(moving).to_contain_text("succeeded", timeout=60_000)


def test_a_value_outside_its_range_is_shown_at_its_field_and_not_sent(open_page: Open, watched: Watched) -> None:
    page = open_page("#new")
    submit(page, "too long", Frames="9999")
    frames = page.get_by_label("Frames", exact=True)
    expect(frames).to_have_attribute("aria-invalid", "true")
    expect(frames).to_be_focused()
    expect(page.locator("#e-frames")).to_have_text("8 to 81")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("too long")
    bar = page.locator(".estimate")
    expect(bar).to_have_text(re.compile("1 field to correct: Frames$"))
    page.get_by_label("Prompt", exact=True).focus()
    bar.get_by_role("link", name="Frames").click()
    expect(frames).to_be_focused()
    frames.fill("9998")  # known before it is sent: the length, which follows it, is not named
    expect(bar).to_have_text(re.compile("^(Estimated time)?Frames: 8 to 81$"))
    page.get_by_label("Length, seconds").fill("99")
    expect(bar).to_contain_text(re.compile("Length, seconds: 1 to 10[.]13"))
    page.get_by_label("Frames", exact=True).fill("9")
    expect(bar).to_contain_text("Starts")
    assert not [one for one in watched.requests if one.method == "POST" and one.url.endswith("/generation")]


def test_a_form_sent_while_its_model_changes_has_the_fields_of_the_new_model(open_page: Open, stack: Stack) -> None:
    page = open_page("#new")
    open_advanced(page)
    choose_model(page, "T2V-A14B")
    page.get_by_label("Guidance (low)", exact=True).fill("2.5")  # which the preset fixes
    page.get_by_label("Prompt", exact=True).fill("between two models")
    page.evaluate("""() => {
        document.querySelector("input[name=model_id][value='T2V-A14B-Lightning']").click();
        document.getElementById("make-form").requestSubmit();
    }""")
    mine = page.locator("[data-submitted]").filter(has_text="between two models")
    expect(mine).to_be_visible()
    job = stack.job(mine.get_attribute("data-submitted") or "")
    assert (job["model_id"], job["params"]["guidance_scale_2"]) == ("T2V-A14B-Lightning", 1.0)
    stack.request("DELETE", f"/api/v1/jobs/{job['id']}")


def test_loras_and_a_webhook_are_sent_and_a_failed_job_is_retried(
    open_page: Open, stack: Stack, watched: Watched
) -> None:
    loras = stack.home / "loras"
    loras.mkdir(exist_ok=True)
    (loras / "broken.safetensors").write_bytes(b"no LoRA")
    page = open_page("#new")
    open_advanced(page)
    for number, (name, scale) in enumerate((("", ""), ("broken", "-0.5"), ("nobody", "")), start=1):
        page.get_by_role("button", name="Add a LoRA").click()
        page.get_by_label(f"LoRA {number}", exact=True).fill(name)
        page.get_by_label(f"Scale {number}").fill(scale)
    page.get_by_label("Webhook").fill("ftp://somewhere")
    page.get_by_label("Also send progress").check()
    submit(page, "painted")
    hook = page.get_by_label("Webhook")
    expect(page.locator("#e-webhook_url")).to_contain_text("must begin with http")
    expect(page.get_by_label("LoRA 3", exact=True)).to_be_focused()
    expect(page.locator(".lora").nth(2)).to_contain_text("there is no LoRA 'nobody'; available: broken")
    hook.fill("https://example.org/hook")
    page.get_by_role("button", name="Create video").click()
    expect(page.locator("#e-webhook_url")).to_be_hidden()
    posted = [request for request in watched.requests if request.method == "POST" and "dry_run" not in request.url]
    sent = [request.post_data_json for request in posted]
    assert sent[-1] is not None
    assert (sent[-1]["webhook_url"], sent[-1]["webhook_progress"]) == ("https://example.org/hook", True)
    hook.fill("")
    page.get_by_label("Also send progress").uncheck()
    page.get_by_role("button", name="Remove LoRA 3").click()
    page.get_by_role("button", name="Create video").click()
    mine = page.locator("[data-submitted]").first
    expect(mine).to_contain_text("is damaged or no safetensors file", timeout=60_000)
    assert len(watched.complaints) == 2
    watched.complaints.clear()

    failed = mine.get_attribute("data-submitted")
    page.goto(f"{stack.url}/#jobs?order=newest")
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/retry", lambda route: held.append((route, route.fetch())))
    page.locator(f"[data-job='{failed}']").get_by_role("button", name="Retry:").click()
    # The feed sends the new job before the response to the request arrives: it must still be one row.
    expect(page.locator("[data-job]").first).not_to_have_attribute("data-job", failed or "")
    route, response = held.pop()
    route.fulfill(response=response)
    # The message says what the new job has become by then.
    expect(page.get_by_text(re.compile("^(A new job with the same settings is queued|The new job )"))).to_be_visible()
    again = stack.request("GET", "/api/v1/jobs?limit=1").json()["data"][0]
    assert (again["retry_of"], again["params"]["loras"]) == (failed, [{"name": "broken", "scale": -0.5}])
    expect(page.locator(f"[data-job='{again['id']}']")).to_have_count(1)
    page.unroute("**/retry")
    page.locator(f"[data-job='{failed}']").get_by_role("link", name="Reuse:").click()
    expect(page.get_by_label("LoRA 1", exact=True)).to_have_value("broken")
    expect(page.get_by_label("Scale 1")).to_have_value("-0.5")
    note, bar = page.locator(".make-form .failure"), page.locator(".make-go")
    expect(note).to_contain_text("It failed: The LoRA file broken.safetensors is damaged")
    expect(note).to_be_in_viewport(ratio=1)
    expect(bar.locator(".chip").filter(has_text="LoRA")).to_have_text("LoRA broken \u00d7 -0.5✕")
    page.reload()
    expect(note).to_be_visible()
    note.get_by_role("button", name="Remove the LoRA broken").click()
    expect(note).to_have_count(0)
    expect(page.get_by_label("LoRA 1", exact=True)).to_have_count(0)
    expect(bar.locator(".chip").filter(has_text="LoRA")).to_have_count(0)
    expect(page.get_by_role("button", name="Create video")).to_be_focused()
    page.reload()  # the address names the job: its settings are copied again, as it had them
    expect(note).to_be_visible()
    page.get_by_role("button", name="LoRA broken \u00d7 -0.5, leave it out").click()
    expect(note).to_have_count(0)
    page.get_by_role("button", name="Create video").click()
    expect(page.locator("[data-submitted]").first).to_contain_text("succeeded", timeout=60_000)


def later() -> str:
    """An hour from now: a job that starts then does not end while the page asks whether to cancel it."""
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")


def test_jobs_are_cancelled_filtered_reused_and_deleted(open_page: Open, stack: Stack) -> None:
    done = stack.submit(prompt="to be deleted")
    stack.wait_status(done)
    cancelled = stack.submit(prompt="to be cancelled", start_after=later(), frames=81)
    page = open_page("#jobs")
    row = page.locator(f"[data-job='{cancelled}']")
    row.get_by_role("button", name="Cancel:").click()
    expect(row.locator(".badge")).to_have_text("cancelled", timeout=20_000)  # it can be undone for five seconds
    expect(page.locator(f"[data-job='{done}'] img")).to_be_visible()

    page.get_by_label("Status").select_option("cancelled")
    expect(page).to_have_url(re.compile(r"#jobs\?status=cancelled$"))
    expect(row).to_be_visible()
    expect(page.locator(f"[data-job='{done}']")).to_be_hidden()
    page.go_back()
    expect(page.get_by_label("Status")).to_have_value("")

    page.locator(f"[data-job='{cancelled}']").get_by_role("link", name="Reuse:").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("to be cancelled")
    expect(page.get_by_label("Frames", exact=True)).to_have_value("81")
    page.go_back()

    erase = page.locator(f"[data-job='{done}']")
    erase.get_by_role("checkbox").check()
    chosen = page.get_by_role("group", name="Selected jobs")
    expect(chosen).to_contain_text("1 selected")
    chosen.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete this job?")
    dialog.get_by_role("button", name="Keep it").click()
    expect(erase).to_be_visible()
    chosen.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    expect(erase).to_be_hidden()
    assert stack.request("GET", f"/api/v1/jobs/{done}").status_code == 404


def test_all_jobs_that_match_are_cancelled_and_a_batch_is_shown(open_page: Open, stack: Stack) -> None:
    long = {"model_id": "T2V-A14B", "prompt": "long", "resolution": "64x64", "frames": 81, "start_after": later()}
    answer = stack.request("POST", "/api/v1/batches", json={"jobs": [{"params": long}] * 3, "name": "boats"})
    batch = answer.json()["id"]
    page = open_page("#jobs")
    page.get_by_text("Batches", exact=True).click()
    page.get_by_role("link", name="boats", exact=True).click()
    shown = page.get_by_role("region", name="boats")
    expect(shown).to_contain_text("3 jobs")
    expect(shown).to_contain_text("no video to download yet")
    expect(page.locator("#jobs tbody tr")).to_have_count(3)
    menu = page.locator("#jobs .bulk")
    menu.get_by_text("Act on all that match").click()
    expect(menu.get_by_role("button", name="Cancel all")).to_have_text("Cancel all3")
    expect(menu.get_by_role("button", name="Retry all")).to_be_disabled()
    menu.get_by_role("button", name="Cancel all").click()
    dialog = page.get_by_role("dialog", name="Cancel 3 jobs?")
    expect(dialog).to_contain_text(batch)
    dialog.get_by_role("button", name=re.compile(r"^Cancel [0-9,]+ jobs?$")).click()
    expect(page.locator("#toasts")).to_contain_text("3 jobs cancelled")
    expect(shown).to_contain_text("cancelled", timeout=30_000)
    menu.get_by_text("Act on all that match").click()
    expect(menu.get_by_role("button", name="Cancel all")).to_be_disabled()
    expect(menu.get_by_role("button", name="Priority of all…")).to_be_disabled()
    expect(menu.get_by_role("button", name="Retry all")).to_have_text("Retry all3")
    menu.get_by_role("button", name="Delete all").click()
    page.get_by_role("dialog", name="Delete 3 jobs?").get_by_role("button", name="Delete").click()
    expect(page.locator("#jobs")).to_contain_text("No job matches these filters.")


def test_the_theme_is_switched_and_remembered(open_page: Open) -> None:
    page = open_page()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    switch = page.get_by_role("button", name="Dark mode")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "true")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    switch.click()
    assert page.evaluate(ground) == light


def test_a_frozen_server_is_shown_as_stale(open_page: Open, stack: Stack, watched: Watched) -> None:
    page = open_page("#overview")
    expect(page.locator("#connection")).to_contain_text("live")
    page.clock.install()
    frozen = stack.pid("web")
    os.kill(frozen, signal.SIGSTOP)
    try:
        page.clock.fast_forward(20_000)
        # Silent for long or, if a request has just failed, disconnected: never live.
        expect(page.locator("#connection")).to_contain_text(re.compile("stale: last update|disconnected"))
        old = re.compile("Unknown: the data is out of date|The server is unreachable")
        expect(page.get_by_text(old).first).to_be_visible()
    finally:
        os.kill(frozen, signal.SIGCONT)
    expect(page.locator("#connection")).to_contain_text("live")


def test_the_server_is_lost_and_regained(open_page: Open, stack: Stack, watched: Watched) -> None:
    page = open_page("#new")
    expect(page.locator("#connection")).to_contain_text("live")
    page.get_by_label("Prompt", exact=True).fill("typed before")
    watched.away = True
    stack.kill_process("web")
    expect(page.locator("#connection")).to_contain_text("disconnected")
    expect(page.get_by_text("The server is unreachable.")).to_contain_text("start it again with wanworks up")
    page.set_viewport_size({"width": 390, "height": 844})
    word = page.locator("#connection-text")
    assert word.evaluate("text => text.scrollWidth <= text.clientWidth"), "nothing of the word is cut off"
    expect(page.locator("#connection")).to_contain_text("live", timeout=120_000)
    expect(page.get_by_text("The server is unreachable.")).to_be_hidden()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("typed before")
    watched.away = False
    submit(page, "after it came back")
    expect(page.locator("[data-submitted]").first).to_contain_text("succeeded", timeout=60_000)


def test_without_a_websocket_it_polls_every_five_seconds(open_page: Open, stack: Stack) -> None:
    page = open_page("#devices")
    page.route_web_socket(re.compile("/dashboard/ws$"), lambda socket: _refuse(socket))
    page.reload()
    expect(page.locator("#connection")).to_contain_text("every 5 s")
    page.get_by_role("link", name="Jobs", exact=False).first.click()
    job = stack.submit(prompt="seen by asking")
    expect(page.locator(f"[data-job='{job}']")).to_contain_text("succeeded", timeout=30_000)


def _refuse(socket: WebSocketRoute) -> None:
    socket.close(code=1011)


def test_hostile_text_is_escaped(open_page: Open, stack: Stack) -> None:
    database = Database(f"sqlite:///{stack.home / 'wanworks.db'}")
    cause = Cause("test", HOSTILE[:200], "info", HOSTILE[:200], HOSTILE, HOSTILE, False)
    alerts.apply(database, Changes(opened=(cause,)), clock.now(), deliver=False)
    database.close()
    job = stack.submit(prompt=HOSTILE, metadata={"name": HOSTILE})
    stack.wait_status(job)
    # First the server-rendered page, then the one drawn by the scripts.
    page = open_page(java_script_enabled=False)
    expect(page.locator("#jobs")).to_contain_text("<img src=x")
    expect(page.locator("#devices")).to_contain_text("here/1")
    expect(page.locator("#models")).to_contain_text("TI2V-5B")
    assert page.locator("img[src=x]").count() == 0

    page = open_page("#jobs")
    expect(page.locator(f"[data-job='{job}']")).to_contain_text(HOSTILE)
    page.goto(f"{stack.url}/#job/{job}")
    expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
    page.goto(f"{stack.url}/#alerts")
    expect(page.locator("#alerts")).to_contain_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    assert "owned" not in page.title()


def test_first_load_is_small_and_views_have_addresses(open_page: Open, watched: Watched, stack: Stack) -> None:
    page = open_page("#overview")
    expect(page.locator("#connection")).to_contain_text("live")
    own = [request for request in watched.requests if "/api/" not in request.url]
    assert any("/static/" in request.url for request in own)
    loaded = sum(request.sizes()["responseBodySize"] + request.sizes()["responseHeadersSize"] for request in own)
    assert loaded < 160_000, loaded
    for name in ("Jobs", "New video", "Models", "Devices", "Alerts", "Overview"):
        page.get_by_role("navigation").get_by_role("link", name=re.compile(f"^{name}")).press("Enter")
        expect(page.get_by_role("heading", level=1, name=name, exact=True)).to_be_focused()
    page.go_back()
    expect(page.get_by_role("heading", level=1, name="Alerts")).to_be_visible()


def test_a_chart_is_drawn_up_to_the_value_that_its_legend_names(open_page: Open) -> None:
    page = open_page("#overview")
    path, legend, read = page.evaluate("""async () => {
        const main = document.querySelector("script[src*=main]").src;
        const of = (name) => import(main.replace("main.js", `base/${name}.js`));
        const [{ chart }, { render }] = [await of("chart"), await of("dom")];
        const place = document.createElement("div");
        document.getElementById("main").append(place);
        const series = [{ name: "succeeded", values: [2], live: () => 3 }];
        render(place, chart({ title: "A test", hours: 1, times: [Date.now() - 60_000], series, format: String }));
        await new Promise((resolve) => setTimeout(resolve, 200));
        const plot = place.querySelector(".plot");
        plot.dispatchEvent(new KeyboardEvent("keydown", { key: "End" }));
        const read = place.querySelector(".readout span").textContent;
        return [place.querySelector(".line").getAttribute("d"), place.querySelector(".legend b").textContent, read];
    }""")
    assert (legend, read) == ("3", "succeeded 3")
    assert re.fullmatch(r"M[\d.]+ 64\.0L[\d.]+ 36\.0", path), "from 2 to 3 of 4, in 112 pixels"


def test_a_chart_has_gaps_and_is_read_by_keyboard_and_as_a_table(open_page: Open) -> None:
    page = open_page("#overview")
    chart = page.locator("figure").filter(has_text="Device utilisation")
    plot = chart.get_by_role("slider")
    expect(plot).to_have_attribute("aria-valuetext", re.compile(r"average \d+\s%"))
    line = chart.locator(".series-1 .line").get_attribute("d") or ""
    assert line.count("M") >= 2, "the line has a gap where nothing was measured"
    plot.focus()
    plot.press("Home")
    expect(chart.locator(".readout")).to_contain_text("average 40 %")
    plot.press("ArrowRight")
    expect(chart.locator(".readout")).to_contain_text("average 39 %")
    memory = page.locator("figure").filter(has_text="Device memory")
    memory.get_by_text("As a table").click()
    expect(memory.get_by_role("row").last).to_contain_text("not measured")
