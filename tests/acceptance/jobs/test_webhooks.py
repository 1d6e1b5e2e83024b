"""A webhook on the whole stack receives progress and the end, also if it was unreachable at the time."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.net.standard_webhooks import key_of
from tests.integration.scheduler.alerts.test_alerts import Receiver
from tests.integration.wanworks.cli.test_cli import wanworks
from tests.support.stack import Stack, wait_for


@pytest.fixture
def stack(demo_models: Path, tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(
        tmp_path / "home",
        demo_models,
        devices="cpu:1",
        WANWORKS_OUTBOUND_ALLOW="127.0.0.1",
        WANWORKS_WEBHOOK_PROGRESS_SECONDS="0.2",
    )
    stack.start()
    yield stack
    stack.stop()


@pytest.mark.slow
def test_it_receives_progress_and_the_end(stack: Stack) -> None:
    receiver = Receiver()
    job_id = stack.submit(webhook_url=receiver.url, webhook_progress=True, resolution="256x256", frames=17, steps=20)
    told: list[dict[str, object]] = []
    key = key_of(wanworks("webhook-secret", "--home", str(stack.home)).stdout.strip())

    def ended() -> bool:
        headers, body = receiver.came.get(timeout=60)
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        told.append(json.loads(body))
        return told[-1]["type"] == "job.succeeded"

    wait_for(ended, 90, "for the end to be told")
    assert {one["type"] for one in told} == {"job.progress", "job.succeeded"}
    data = told[-1]["data"]
    assert isinstance(data, dict)
    assert data["id"] == job_id
    video = next(one for one in data["artifacts"] if one["name"] == "video.mp4")
    assert hashlib.sha256(stack.request("GET", video["url"]).content).hexdigest() == video["sha256"]
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.mark.slow
def test_it_receives_the_end_once_the_receiver_is_back(stack: Stack) -> None:
    receiver = Receiver()
    receiver.status = 503
    job_id = stack.submit(webhook_url=receiver.url)
    receiver.came.get(timeout=60)
    stack.kill_process("io")
    receiver.status = 200
    headers, body = receiver.came.get(timeout=60)
    assert json.loads(body)["data"]["id"] == job_id
    query = "select state from webhook_messages where id = ?"
    wait_for(lambda: stack.sql(query, headers["webhook-id"]) == [("delivered",)], 20, "for it to be noted")
    receiver.server.shutdown()
    receiver.server.server_close()
