"""What the page's scripts list by themselves, held to what the server knows."""

import json
import re

import pytest

from api.dashboard.page_files import files
from shared.catalogue.job_types import JOB_TYPES
from shared.states import JobState


def listed(script: str, pattern: str) -> set[str]:
    found = re.search(pattern, files()[script].content.decode(), re.DOTALL)
    assert found is not None
    return set(json.loads(f"[{found[1]}]"))


@pytest.mark.parametrize(("name", "known"), [("TYPES", set(JOB_TYPES)), ("STATES", set(JobState))])
def test_the_filters_of_jobs_offer_every_type_and_state(name: str, known: set[str]) -> None:
    assert listed("base/list_address.js", rf"export const {name} = \[(.*?)\]") == known


def test_every_type_of_job_has_a_title() -> None:
    script = files()["base/parts.js"].content.decode()
    named = re.search(r"const KINDS = \{(.*?)\};", script, re.DOTALL)
    assert named is not None
    # A generation is called by its prompt, an action on many jobs by the action.
    assert set(re.findall(r"(\w+): \"", named[1])) | {"generation", "bulk"} == set(JOB_TYPES)
