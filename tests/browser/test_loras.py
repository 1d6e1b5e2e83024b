"""Add a LoRA on the view of models, and use it in the form for a new video."""

import re
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import Open, Watched
from tests.browser.test_live_page import choose_model, submit
from tests.integration.workers.generation.lora_files import write_lora
from tests.support.stack import Stack


def test_a_lora_is_uploaded_used_shared_and_removed(
    open_page: Open, stack: Stack, watched: Watched, tmp_path: Path
) -> None:
    file = tmp_path / "film grain.safetensors"
    write_lora(file)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no LoRA")
    page = open_page("#models")
    panel = page.get_by_role("region", name="LoRAs")
    panel.locator("summary", has_text="Add a LoRA").click()
    adding = panel.get_by_role("form", name="Add a LoRA")
    adding.get_by_role("button", name="Add").click()
    assert adding.get_by_label("Name").evaluate("field => field.validity.valueMissing")
    adding.get_by_label("File").set_input_files(damaged)
    adding.get_by_role("button", name="Add").click()
    alert = adding.get_by_role("alert")
    expect(alert).to_contain_text(re.compile("^File is not a safetensors file;.*[.]$"))
    assert "422" in watched.complaints.pop()
    adding.get_by_label("File").set_input_files([])
    expect(alert).to_have_count(0)
    for address in ("ftp://example.org/a.safetensors", "owner/repository"):
        adding.get_by_label("Address").fill(address)
        expect(alert).to_have_count(0)
        adding.get_by_role("button", name="Add").click()
        expect(alert).to_contain_text(re.compile("^Address"))
        expect(alert).not_to_contain_text(re.compile("url|repo:|file:"))
        assert "422" in watched.complaints.pop()
    expect(page.locator(".toast")).to_have_count(0)  # it is said once
    adding.get_by_label("Address").fill("")
    adding.get_by_label("Name").fill("")
    adding.get_by_label("File").set_input_files(file)
    expect(adding.get_by_label("Name")).to_have_value("film-grain")
    adding.get_by_label("Description").fill("the grain of old film")
    adding.get_by_role("button", name="Add").click()
    mine = panel.locator("[data-lora='film-grain']")
    expect(mine).to_contain_text("the grain of old film")
    expect(mine).to_contain_text("rank 4")
    expect(adding.get_by_role("alert")).to_have_count(0)
    expect(adding.get_by_label("Name")).to_have_value("")

    mine.get_by_role("button", name="Share with everybody: film-grain").click()
    expect(mine).to_contain_text("shared with everybody")
    mine.get_by_role("link", name="Use").click()
    expect(page.get_by_label("LoRA 1", exact=True)).to_have_value("film-grain")
    choose_model(page, "T2V-A14B")
    page.get_by_label("Scale 1").fill("0.8")
    submit(page, "an old film")
    made = page.locator("[data-submitted]").first
    expect(made).to_contain_text("succeeded", timeout=90_000)
    applied = stack.job(made.get_attribute("data-submitted") or "")["result"]["loras"]
    assert {(one["name"], one["scale"]) for one in applied} == {("film-grain", 0.8)}, "by both experts"

    page.get_by_role("navigation").get_by_role("link", name=re.compile("^Models")).click()
    mine.get_by_role("button", name="Remove the LoRA film-grain").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(mine).to_have_count(0)
