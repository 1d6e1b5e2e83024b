"""The information routes, and the state that their tests prepare."""

from datetime import timedelta
from typing import Any

from starlette.testclient import TestClient

from shared import clock
from shared.database.engine import Database
from shared.insight import samples
from shared.insight.samples import Doing, Reading
from tests.support.uses import used

BASE = "/api/v1/wan-models"
MODELS = ("T2V-A14B", "I2V-A14B", "TI2V-5B")


def get(client: TestClient, path: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"{BASE}/{path}", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def sampled(database: Database, device: str = "here/0", ago: float = 1.0, **more: Any) -> None:
    """Store a sample of a GPU that runs T2V-A14B."""
    doing = Doing("job", more.pop("model_id", "T2V-A14B"), "denoising")
    kind = more.pop("kind", "cuda")
    figures: dict[str, float | None] = {
        "utilization_percent": 80.0, "memory_used_mb": 20_000.0, "memory_total_mb": 80_000.0,
        "temperature_celsius": 60.0, "power_watts": 300.0, **more,
    }  # fmt: skip
    samples.record(database, device, kind, Reading(**figures), doing, clock.now() - timedelta(seconds=ago))


def measured(database: Database, model_id: str = "T2V-A14B") -> None:
    """Store successes of 10, 11 and 14 s with a wait of 5 s each, a failure after 5 s, and older usage."""
    now = clock.now()
    for seconds, quality in ((10.0, 0.9), (11.0, None), (14.0, 0.8)):
        end = now - timedelta(minutes=30)
        used(
            database, model_id, finished_at=end, seconds=seconds, created_at=end - timedelta(seconds=seconds + 5),
            quality=quality, device_name="H200", profile="full",
        )  # fmt: skip
    used(database, model_id, finished_at=now - timedelta(minutes=20), outcome="failed", seconds=5.0)
    used(database, model_id, finished_at=now - timedelta(minutes=10), outcome="cancelled")
    used(database, model_id, finished_at=now - timedelta(minutes=10), mock=True)
    used(
        database, model_id, finished_at=now - timedelta(hours=25), seconds=20.0, device_name="L4",
        profile="int8-stream", quality=0.7,
    )  # fmt: skip
    used(database, model_id, days_ago=40, seconds=1000.0, quality=0.0, device_name="old")
