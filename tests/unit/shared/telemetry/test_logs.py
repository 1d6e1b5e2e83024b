"""One line of a log: JSON for machines, readable for people, with what it is about in both."""

import json
import logging
from collections.abc import Iterator

import pytest

from shared.settings import Settings
from shared.telemetry import logs


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Settings(node="here", log_format="json"), "gpu-0@here", device="GPU-1")
    log = logging.getLogger("wanworks.test")
    with logs.bound(job_id="j", attempt=2):
        try:
            raise ValueError("broken\nin two lines")
        except ValueError:
            log.exception("It %s", "broke")
    log.info("Later")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["time"].endswith("Z")
    assert {name: first[name] for name in ("level", "logger", "message", "node", "process", "device")} == {
        "level": "ERROR", "logger": "wanworks.test", "message": "It broke", "node": "here", "process": "gpu-0@here",
        "device": "GPU-1",
    }  # fmt: skip
    assert (first["job_id"], first["attempt"]) == ("j", 2)
    assert "ValueError: broken" in first["exception"]
    assert "job_id" not in second


def test_a_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Settings(log_format="text"), "web")
    with logs.bound(request_id="r"):
        logging.getLogger("wanworks.test").warning("Slow")
    assert capsys.readouterr().err.endswith("WARNING wanworks.test: Slow  [request_id=r]\n")


def test_the_level_is_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(Settings(log_format="json", log_level="ERROR"), "web")
    logging.getLogger("wanworks.test").warning("Unheard")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("level", "heard"), [("INFO", ["kept"]), ("DEBUG", ["received", "kept"])])
def test_the_coming_and_going_of_messages_is_logged_for_debugging_alone(
    capsys: pytest.CaptureFixture[str], level: str, heard: list[str]
) -> None:
    logs.set_up(Settings(log_format="json", log_level=level), "gpu-0@here")
    logging.getLogger("celery.worker.strategy").info("received")
    logging.getLogger("celery.app.trace").error("kept")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == heard


def test_a_file_is_no_terminal() -> None:
    assert logs.is_json(Settings())
