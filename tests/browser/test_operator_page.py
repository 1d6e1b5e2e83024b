"""Operate models, nodes and alerts on the live page in a real browser."""

import os
import re
import time
from pathlib import Path

from playwright.sync_api import WebSocketRoute, expect

from shared.database.engine import Database
from shared.errors import FaultKind
from shared.jobs import device_faults
from tests.browser.conftest import FETCHED, Open, Watched
from tests.support.stack import Stack, wait_for


def test_a_download_is_started_paused_limited_resumed_and_cancelled(open_page: Open) -> None:
    page = open_page("#models")
    card = page.locator(f"[data-model='{FETCHED}']")
    card.get_by_role("button", name=f"Download {FETCHED}").click()
    card.get_by_role("button", name="Pause").click()
    expect(card.get_by_role("button", name="Resume")).to_be_visible()
    expect(card).to_contain_text(re.compile(r"paused at \d"))
    card.get_by_label("Limit").fill("1.5")
    card.get_by_role("button", name="Set").click()
    expect(card).to_contain_text("at most 1.5 Mbps")
    bar = card.get_by_role("progressbar")
    card.get_by_role("button", name="Resume").click()
    expect(card.get_by_role("button", name="Pause")).to_be_visible()
    before = bar.evaluate("bar => bar.value")
    page.wait_for_function("([bar, before]) => bar.value > before", arg=[bar.element_handle(), before])
    card.get_by_role("button", name="Cancel the download").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the download").click()
    expect(card.get_by_role("button", name=f"Download {FETCHED}")).to_be_visible()


def test_the_tiles_agree_with_the_jobs_beside_them(open_page: Open, stack: Stack) -> None:
    """Before the server has counted again, too."""
    page = open_page("#overview")
    running, queued = (page.locator(".tile").filter(has_text=name).first for name in ("Running", "Queued"))
    expect(running.locator(".tile-figure")).to_have_text("0")
    before = int(queued.locator(".tile-figure").inner_text())  # of the tests before
    # With the page, and after the first messages, which may tell what was counted already.
    counts = "() => performance.getEntriesByType('resource').filter(({ name }) => name.includes('/jobs/count')).length"
    wait_for(lambda: page.evaluate(counts) >= 2, 20, "the second count")
    page.route("**/api/v1/jobs/count*", lambda _route: None)  # it is never answered
    stack.request("POST", "/api/v1/queues/pause", json={})
    try:
        waiting = stack.submit(model_id="T2V-A14B", prompt="waits", resolution="64x64", frames=9, steps=2)
        now = page.locator(".now li").filter(has_text="waits")
        expect(now).to_contain_text("The queue is paused")
        expect(queued.locator(".tile-figure")).to_have_text(str(before + 1))
        expect(queued).not_to_contain_text("queue is empty")
        page.unroute("**/api/v1/jobs/count*")
        stack.request("POST", "/api/v1/queues/resume", json={})
        said = stack.request("GET", f"/api/v1/jobs/{waiting}").json()["waiting_for"]
        assert said is None or said["reason"] != "pause"
        stack.wait_status(waiting)
        for tile, count in ((running, 0), (queued, before)):
            expect(tile.locator(".tile-figure")).to_have_text(str(count))
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={})


def test_a_new_job_that_a_list_names_before_its_message_is_counted(open_page: Open, stack: Stack, paused: None) -> None:
    def hold_jobs(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        server.on_message(lambda message: None if '"job_update"' in str(message) else socket.send(message))

    page = open_page("#overview")
    page.route_web_socket(re.compile("/dashboard/ws$"), hold_jobs)
    page.reload()
    queued = page.locator(".tile").filter(has_text="Queued").first.locator(".tile-figure")
    expect(queued).to_have_text(re.compile(r"\d"))
    before = int(queued.inner_text())
    counts = "() => performance.getEntriesByType('resource').filter(({ name }) => name.includes('/jobs/count')).length"
    wait_for(lambda: page.evaluate(counts) >= 2, 20, "the second count")
    page.route("**/api/v1/jobs/count*", lambda _route: None)  # it is never answered
    stack.submit(model_id="T2V-A14B", prompt="waits unseen", resolution="64x64", frames=9, steps=2)
    # The jobs are loaded again because of it.
    stack.request("POST", "/api/v1/queues/pause", json={"model_id": "TI2V-5B"})
    try:
        expect(page.locator(".now li").filter(has_text="waits unseen")).to_be_visible()
        expect(queued).to_have_text(str(before + 1))
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={"model_id": "TI2V-5B"})


def test_the_queue_is_paused_and_resumed(open_page: Open, stack: Stack) -> None:
    page = open_page("#overview")
    section = page.locator(".health + section")  # it keeps its place below the health
    expect(section.get_by_role("heading")).to_have_text("Queue")
    health = page.locator(".health")
    expect(section).to_contain_text("Nothing is paused.")
    section.get_by_role("button", name="Pause the queue").click()
    asked = page.get_by_role("dialog", name="Pause the whole queue?")
    expect(asked).to_contain_text("Running jobs finish, nothing new starts.")
    asked.get_by_role("button", name="Cancel").click()
    expect(section).to_contain_text("Nothing is paused.")
    try:
        section.get_by_role("button", name="Pause the queue").click()
        asked.get_by_role("button", name="Pause the queue").click()
        expect(section).to_contain_text("paused by local, just now")
        expect(health).to_contain_text("The queue is paused: jobs wait until it is resumed")
        # The alert follows on its heading.
        expect(health.locator("strong, a").last).to_have_text("The queue is paused: jobs wait until it is resumed")
        page.get_by_role("navigation").get_by_role("link", name="Devices").click()
        expect(page.locator("#devices .idle").first).to_have_text(re.compile("idle . the queue is paused"))
        page.get_by_role("navigation").get_by_role("link", name="Overview").click()
        page.locator("#toasts").get_by_role("button", name="Resume").click()
        expect(section).to_contain_text("Nothing is paused.")
        expect(health).not_to_contain_text("The queue is paused")
        stack.request("POST", "/api/v1/queues/pause", json={"model_id": "TI2V-5B"})
        expect(health).to_contain_text("Paused: model TI2V-5B. Its jobs wait until it is resumed")
        section.get_by_role("button", name="Resume model TI2V-5B").click()
        stack.request("POST", "/api/v1/queues/pause", json={})
        section.get_by_role("button", name="Resume the queue").click()
        expect(section).to_contain_text("Nothing is paused.")
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={})


def test_a_drained_node_is_shown_and_offered_no_download(open_page: Open, stack: Stack) -> None:
    page = open_page("#devices")
    shown = page.locator("#devices .badge")
    expect(shown).to_have_text(["idle", "idle", "online"])
    stack.request("POST", "/api/v1/nodes/here/drain")
    try:
        expect(shown).to_have_text(["drained", "drained", "drained"])
        page.get_by_role("navigation").get_by_role("link", name="Models").click()
        card = page.locator(f"[data-model='{FETCHED}']")
        expect(card.locator(".replica")).to_contain_text("drained")
        expect(card.get_by_role("button", name=f"Download {FETCHED}")).to_have_count(0)
    finally:
        stack.request("DELETE", "/api/v1/nodes/here/drain")
    expect(card.get_by_role("button", name=f"Download {FETCHED}")).to_be_visible()


def test_a_device_is_paused_and_a_node_drained_on_the_page(open_page: Open) -> None:
    page = open_page("#devices")
    page.get_by_role("button", name="Pause here / CPU 0").press("Enter")
    page.get_by_role("dialog", name="Pause here / CPU 0?").get_by_role("button", name="Pause").click()
    expect(page.locator("#devices .badge").first).to_have_text("paused")
    resume = page.locator("#devices").get_by_role("button", name="Resume here / CPU 0")
    expect(resume).to_be_focused()  # it took the place of the other
    resume.press("Enter")
    expect(page.locator("#devices .badge").first).to_have_text("idle")
    expect(page.get_by_role("button", name="Pause here / CPU 0")).to_be_focused()
    page.get_by_role("button", name="Drain here").click()
    page.get_by_role("dialog", name="Drain the node here?").get_by_role("button", name="Drain").click()
    expect(page.locator("#devices .badge").last).to_have_text("drained")
    page.evaluate("location.hash = 'overview'")  # where it has the same words
    overview = page.locator("#overview .body")
    expect(overview.locator(".health + section")).to_contain_text(re.compile("drained.*node here: drained by"))
    expect(overview).not_to_contain_text(re.compile("paused", re.IGNORECASE))
    overview.get_by_role("button", name="Take jobs again on here").click()
    expect(page.locator("#toasts")).to_contain_text("here takes jobs again.")
    page.evaluate("location.hash = 'devices'")
    page.get_by_role("button", name="Drain here").click()
    page.get_by_role("dialog", name="Drain the node here?").get_by_role("button", name="Drain").click()
    page.get_by_role("button", name="Take jobs again on here").click()
    expect(page.locator("#devices .badge").last).to_have_text("online")


def test_while_no_device_accepts_jobs_every_view_says_why_they_wait(open_page: Open, stack: Stack) -> None:
    page = open_page("#jobs?status=queued", viewport={"width": 1400, "height": 900})
    for device in ("here/0", "here/1"):
        stack.request("POST", "/api/v1/queues/pause", json={"device": device})
    try:
        job = stack.submit(prompt="nobody takes it")
        row = page.locator(f"#jobs [data-job='{job}']")
        expect(row).to_contain_text("waiting. No device accepts jobs: all 2 are paused.")
        expect(page.locator("#jobs .list-summary")).to_contain_text("No device accepts jobs: all 2 are paused. Devices")
        row.get_by_role("link").first.click()
        expect(page.get_by_role("dialog")).to_contain_text("waiting. No device accepts jobs: all 2 are paused.")
        waits = stack.job(job)["waiting_for"]
        assert (waits["reason"], waits["open_devices"]) == ("device", 0)
        page.goto(f"{stack.url}/#overview")
        health = page.locator("#overview .health")
        expect(health).to_have_class(re.compile("bad"))
        expect(health).to_contain_text("No device accepts jobs: all 2 are paused. Jobs stay queued")
        expect(health).not_to_contain_text("other devices")
        expect(page.locator("#overview")).to_contain_text("0 of 2 devices accept jobs")
        page.goto(f"{stack.url}/#jobs?status=queued")
        page.get_by_role("link", name="Devices", exact=True).first.click()
        page.get_by_role("button", name="Resume here / CPU 0").click()
        expect(page.locator("#toasts")).to_contain_text("here / CPU\u00a00 takes jobs again.")
        assert stack.wait_status(job)["status"] == "succeeded"
    finally:
        stack.request("POST", "/api/v1/queues/resume", json={})
        for device in ("here/0", "here/1"):
            stack.request("POST", "/api/v1/queues/resume", json={"device": device})


def test_a_question_ends_with_the_view_that_it_is_about(open_page: Open) -> None:
    page = open_page("#devices")
    page.get_by_role("button", name="Drain here").click()
    expect(page.get_by_role("dialog", name="Drain the node here?")).to_be_visible()
    page.evaluate("location.hash = 'overview'")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_history_that_cannot_be_loaded_is_not_called_empty_and_comes_with_the_next_answer(
    open_page: Open, watched: Watched
) -> None:
    page = open_page("#alerts")
    watched.away = True
    page.route("**/api/v1/dashboard/metrics/history?*", lambda route: route.abort())
    page.evaluate("location.hash = 'overview'")
    charts = page.locator("#overview figure")
    expect(charts.first).to_contain_text("could not be loaded")
    expect(page.locator("#overview")).not_to_contain_text("no data in this time range")
    expect(charts.locator(".grid")).to_have_count(0)
    page.unroute("**/api/v1/dashboard/metrics/history?*")
    watched.complaints = [one for one in watched.complaints if "/metrics/history" not in one]
    expect(page.locator("#overview")).not_to_contain_text("could not be loaded", timeout=15_000)
    expect(charts.first.locator(".grid").first).to_be_attached()


def test_a_model_that_no_node_has_is_not_verified_and_a_failed_check_is_told(open_page: Open) -> None:
    page = open_page("#models")
    absent = page.locator(f"[data-model='{FETCHED}']").get_by_role("button", name="Verify")
    expect(absent).to_be_disabled()
    expect(absent).to_have_attribute("title", f"No node has {FETCHED}")
    there = page.locator("[data-model='T2V-A14B']").get_by_role("button", name="Verify")
    expect(there).to_be_enabled()
    # As if its files were removed meanwhile.
    other = {"model_id": FETCHED, "repair": False}
    page.route("**/api/v1/jobs/integrity-check", lambda route: route.continue_(post_data=other))
    there.click()
    told = page.locator("#toasts .bad")
    expect(told).to_contain_text(f"The check of {FETCHED} failed: {FETCHED} is not on node here")
    told.get_by_role("link", name="Open").click()
    expect(page.get_by_role("dialog", name=f"Integrity check of {FETCHED}")).to_be_visible()


def test_an_open_log_shows_its_end_and_makes_no_other_card_higher(open_page: Open) -> None:
    page = open_page("#devices", viewport={"width": 1024, "height": 768})
    lines = [
        {"time": "2030-01-02T03:04:05Z", "level": "INFO", "process": "gpu-0", "message": f"line {number}"}
        for number in range(100)
    ]
    answer = {"lines": lines, "processes": ["gpu-0"], "unanswered": []}
    page.route("**/api/v1/nodes/here/log?*", lambda route: route.fulfill(json=answer))
    first, second = (page.locator("#devices .card").nth(place) for place in (0, 1))
    expect(second).to_contain_text("waits for a job")
    before = second.bounding_box()
    first.get_by_text("Log", exact=True).click()
    log = first.get_by_label("Log", exact=True)
    expect(log).to_contain_text("line 99")
    page.wait_for_function("log => log.scrollTop + log.clientHeight >= log.scrollHeight - 1", arg=log.element_handle())
    after = second.bounding_box()
    assert before is not None
    assert after is not None
    assert after["y"] == before["y"]
    assert after["height"] <= before["height"]
    log.evaluate("log => log.scrollTo(0, 0)")
    first.get_by_role("button", name="Read again").click()
    page.wait_for_function("log => log.scrollTop + log.clientHeight >= log.scrollHeight - 1", arg=log.element_handle())


def test_a_quarantined_device_is_shown_with_the_reason_until_its_release(open_page: Open, stack: Stack) -> None:
    page = open_page("#devices")
    shown = page.locator("#devices .badge")
    expect(shown).to_have_text(["idle", "idle", "online"])
    database = Database(f"sqlite:///{stack.home / 'wanworks.db'}")
    try:
        assert device_faults.quarantine(database, "here/0", FaultKind.XID, "The driver reports Xid 79")
    finally:
        database.close()
    try:
        expect(shown).to_have_text(["quarantined", "idle", "online"])
        card = page.locator("[data-device='here/cpu/0']")
        expect(card).to_contain_text("The driver reports Xid 79")
        expect(card.locator("code")).to_have_text("wanworks release here/0")
    finally:
        stack.request("DELETE", "/api/v1/nodes/here/devices/0/quarantine")
    expect(shown).to_have_text(["idle", "idle", "online"])


def test_models_are_compared_recommended_and_pinned(open_page: Open, stack: Stack) -> None:
    page = open_page("#models")
    compared = page.get_by_role("region", name="Compare")
    compared.get_by_label("Second model").select_option("TI2V-5B")
    compared.get_by_role("button", name="Compare").click()
    expect(compared.get_by_role("row", name=re.compile("^Average time"))).to_be_visible()
    expect(compared.get_by_role("columnheader", name="TI2V-5B")).to_be_visible()

    advised = page.get_by_role("region", name="Recommend a model")
    advised.get_by_label("Use").fill("a story told in text")
    advised.get_by_label("Memory, GB").fill("0.1")
    advised.get_by_role("button", name="Recommend").click()
    expect(advised).to_contain_text("No model fits")
    advised.get_by_label("Memory, GB").fill("")
    advised.get_by_role("button", name="Recommend").click()
    expect(advised).to_contain_text(re.compile(r"A clear choice\.|A likely choice|Close: \S+ is nearly as good\."))
    chosen = advised.get_by_role("heading", level=3).inner_text()
    made = advised.get_by_role("link", name=f"Create a video with {chosen}")
    expect(made).to_have_attribute("href", f"#new?model={chosen}")

    card = page.locator("[data-model='T2V-A14B']")
    card.get_by_role("button", name="Pin T2V-A14B").click()
    expect(card.get_by_role("button", name="Unpin T2V-A14B")).to_be_visible()
    status = stack.request("GET", "/api/v1/models/status/detailed").json()
    assert status["models"]["T2V-A14B"]["pinned"]
    card.get_by_role("button", name="Unpin T2V-A14B").click()
    expect(card.get_by_role("button", name="Pin T2V-A14B")).to_be_visible()


def test_a_model_is_verified_and_repaired(open_page: Open, stack: Stack) -> None:
    cache = Path(stack.environment["WANWORKS_MODELS_PATH"]) / "models--wanworks-demo--I2V-A14B"
    (file,) = cache.glob("snapshots/*/vae/config.json")
    whole = file.read_bytes()
    page = open_page("#models")
    card = page.locator("[data-model='I2V-A14B']")
    expect(card.get_by_role("button", name="Verify I2V-A14B")).to_be_visible()
    expect(card.get_by_role("button", name="Repair I2V-A14B")).to_have_count(0)
    file.resolve().write_bytes(whole[:-1] + b" ")
    card.get_by_role("button", name="Verify I2V-A14B").click()
    expect(card).to_contain_text("corrupted")
    (check,) = stack.request("GET", "/api/v1/jobs?type=integrity_check&model_id=I2V-A14B").json()["data"]
    assert (check["status"], check["params"]["repair"]) == ("succeeded", False)
    card.get_by_role("button", name="Repair I2V-A14B").click()
    expect(card.get_by_role("button", name="Repair I2V-A14B")).to_have_count(0)
    expect(card.locator(".badge").first).to_have_text("ready")
    assert file.read_bytes() == whole


def test_an_alert_is_acknowledged_by_name(open_page: Open) -> None:
    page = open_page("#alerts")
    alert = page.locator("[data-alert]").filter(has_text="nearly full").first
    alert.get_by_label("Your name").fill("Ada")
    alert.get_by_role("button", name="Acknowledge").click()
    expect(alert).to_contain_text("Acknowledged by Ada")
    expect(alert.get_by_label("Your name")).to_have_count(0)
    page.reload()
    assert page.evaluate("localStorage.getItem('wanworks.name')") == "Ada"
    expect(page.locator("[data-alert]").filter(has_text="Acknowledged by Ada")).to_have_count(1)
    page.goto(page.url.replace("#alerts", "#overview"))
    # Knowing of a fault does not mend it.
    expect(page.locator(".health.warn")).to_contain_text("acknowledged")


def test_a_cleanup_is_previewed_and_then_carried_out(open_page: Open, stack: Stack, watched: Watched) -> None:
    folder = Path(stack.environment["WANWORKS_MODELS_PATH"]) / "models--wanworks-demo--T2V-A14B" / "blobs"
    orphan = folder / f"{'a' * 64}.incomplete"
    orphan.write_bytes(bytes(5_000_000))
    long_ago = time.time() - 10 * 86400
    os.utime(orphan, (long_ago, long_ago))
    wait_for(lambda: stack.sql("select 1 from blobs where name = ?", orphan.name), 20, "for the node to see it")

    page = open_page("#models")
    target = page.get_by_label("Target free space, GB")
    target.fill("99999999")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text(re.compile("is more than the disk of node here has"))).to_be_visible()
    assert "422" in watched.complaints.pop()
    target.fill("")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#plan")).to_contain_text("This would free 5 MB")
    expect(page.locator("#plan")).to_contain_text("Part of a download that has ended")
    assert orphan.exists(), "a preview removes nothing"

    page.get_by_role("button", name="Clean up now").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("remove partial T2V-A14B on here: 5 MB")
    dialog.get_by_role("button", name="Remove").click()
    expect(page.get_by_text(re.compile(r"5\sMB freed by 1 removal"))).to_be_visible(timeout=40_000)
    assert not orphan.exists()
