"""`wanworks flow`: the tree that it prints, and files that are refused."""

from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from wanworks.cli.flow import tree
from wanworks.cli.main import app
from wanworks.client.shapes import Flow
from wanworks.errors import ConfigurationError


def test_each_job_is_below_the_first_one_that_it_depends_on() -> None:
    jobs: list[Any] = [
        {"name": name, "depends_on": after}
        for name, after in (("a", []), ("b", ["a"]), ("x", []), ("c", ["b", "x"]), ("d", ["a"]))
    ]
    found = [(depth, job["name"]) for depth, job in tree(cast(Flow, {"jobs": jobs}))]
    assert found == [(0, "a"), (1, "b"), (2, "c"), (1, "d"), (0, "x")]


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "is not JSON"), ("[]", "no list of jobs"), ('{"jobs": [], "job": 1}', "does not have: job; allowed")],
)
def test_a_file_that_is_no_flow(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "flow.json"
    file.write_text(content)
    done = CliRunner().invoke(app, ["flow", "submit", str(file), "--url", "http://127.0.0.1:9"])
    assert isinstance(done.exception, ConfigurationError)
    assert says in done.exception.message
