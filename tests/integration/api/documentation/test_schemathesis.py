"""Test the API against its OpenAPI document with all checks of schemathesis, without workers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WebProcess

_CONFIG = Path(__file__).parent / "schemathesis.toml"


def run(web: WebProcess, folder: Path, examples: int, seed: int) -> int:
    """Run schemathesis and return the number of passed cases. Fails with the report if a case failed."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG), "run"]
    command += [f"http://127.0.0.1:{web.port}/openapi.json", "--checks", "all", "--no-color"]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--generation-database", "none"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert passed is not None, done.stdout[-2000:]
    assert passed[1] == passed[2]
    return int(passed[2])


@pytest.mark.timeout(15 * 60)
def test_the_api_conforms_to_its_document(web: WebProcess, tmp_path: Path) -> None:
    assert run(web, tmp_path, examples=2, seed=1) > 100


@pytest.mark.slow
@pytest.mark.timeout(15 * 60)
def test_the_api_does_as_its_document_says_in_two_thousand_cases(web: WebProcess, tmp_path: Path) -> None:
    assert run(web, tmp_path, examples=300, seed=2026) >= 2000


@pytest.mark.fuzz
@pytest.mark.timeout(3 * 3600)
def test_the_api_does_as_its_document_says_in_the_long_run(web: WebProcess, tmp_path: Path) -> None:
    cases = run(web, tmp_path, examples=3000, seed=2027)
    print(f"{cases} cases")
    assert cases >= 20_000
