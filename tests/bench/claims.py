"""The time from a request to the claim on an idle device, and the bytes that a job leaves in Redis."""

import statistics
import time
from typing import Any

import httpx
import redis

from tests.bench.support.row import Row
from tests.support.stack import QUICK, wait_for

_REQUESTS = 200
_HOUR_SECONDS = 3600
_MEDIAN_MS, _P99_MS, _BYTES = 15.0, 60.0, 1024.0


def claims(bench: Any) -> list[Row]:
    """One request at a time, the model loaded; and what of 200 jobs Redis still holds an hour after their ends."""
    with bench.stack() as stack, httpx.Client(base_url=stack.url) as client:
        for seed in range(3):
            stack.wait_status(stack.submit(seed=seed))
        server = redis.Redis.from_url(stack.state()["redis_url"])
        before = _bytes_in_an_hour(server)
        waits = []
        for seed in range(_REQUESTS):
            asked = time.time()
            answer = client.post("/api/v1/jobs/generation", json={**QUICK, "seed": seed})
            assert answer.status_code == 202, answer.text
            job_id = answer.json()["id"]
            wait_for(lambda job_id=job_id: stack.sql(_ENDED, job_id), 30, "for the job's end")
            ((claimed,),) = stack.sql("select claimed_at from jobs where id = ?", job_id)
            waits.append(1000 * (claimed - asked))
            time.sleep(0.05)  # the device says that it is idle
        # Celery publishes its last events after the job's end.
        time.sleep(2)
        each = (_bytes_in_an_hour(server) - before) / _REQUESTS
    waits.sort()
    median, p99 = statistics.median(waits), waits[int(0.99 * len(waits))]
    return [
        Row("from POST to the claim on an idle, warm device, median", f"{median:.0f} ms", f"<= {_MEDIAN_MS:.0f} ms",
            median <= _MEDIAN_MS),
        Row("the same, p99", f"{p99:.0f} ms", f"<= {_P99_MS:.0f} ms", p99 <= _P99_MS),
        Row("bytes in Redis of a job, an hour after its end", f"{each:.0f}", f"<= {_BYTES:.0f}", each <= _BYTES),
    ]  # fmt: skip


_ENDED = "select 1 from jobs where id = ? and finished_at is not null"


def _bytes_in_an_hour(server: Any) -> int:
    """Of all keys whose time is not over by then, with what the server keeps of them beside."""
    keys = [key for key in server.scan_iter() if not 0 <= server.ttl(key) < _HOUR_SECONDS]
    return sum(server.memory_usage(key, samples=0) or 0 for key in keys)
