"""The dialog of a job that runs shows its preview, and none once the job has ended."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open
from tests.support.stack import Stack, wait_for

MODEL = "T2V-A14B"


@pytest.mark.slow
def test_the_dialog_of_a_running_job_shows_its_preview(open_page: Open, stack: Stack) -> None:
    status = "/api/v1/models/status/detailed"
    wait_for(
        lambda: stack.request("GET", status).json()["models"][MODEL]["availability_status"] == "available", 60,
        "for the node to find its models",
    )  # fmt: skip
    answer = stack.request("POST", "/api/v1/jobs/prepare", json={"model_id": MODEL})
    assert stack.wait_status(answer.json()["id"], seconds=240)["status"] == "succeeded"
    job_id = stack.submit(model_id=MODEL, resolution="256x144", frames=17, steps=100)
    page = open_page(f"#job/{job_id}")
    picture = page.get_by_role("dialog").locator("figure img")
    expect(picture).to_be_visible(timeout=120_000)
    page.wait_for_function("() => document.querySelector('dialog figure img')?.naturalWidth > 0")
    assert (picture.get_attribute("width"), picture.get_attribute("height")) == ("256", "144")
    assert "of 100" in (picture.get_attribute("alt") or "")
    expect(page.get_by_text("Preview of the middle, after step")).to_be_visible()
    stack.request("POST", f"/api/v1/jobs/{job_id}/cancel")
    stack.wait_status(job_id)
    expect(picture).to_have_count(0)
    assert stack.request("GET", f"/api/v1/jobs/{job_id}/preview").json()["code"] == "no_preview"
