"""docs/hardware.md is what the catalogue and the plan say."""

from shared.models import hardware_page
from tests.support.places import ROOT


def test_the_page_is_the_present_one() -> None:
    written = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert written == hardware_page.page(), "run: python -m shared.models.hardware_page > docs/hardware.md"
