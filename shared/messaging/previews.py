"""Previews of running generations in Redis: for each job the latest alone, under a key that expires.

They may be lost at any time. A running job has at most one, of at most `MOST_BYTES`, so their memory is bounded by the
number of devices.
"""

import json
from dataclasses import dataclass
from typing import Any

from shared.messaging.progress import FEED_CHANNEL, RestingRedis, preview_key

MOST_BYTES = 100_000
KEEP_SECONDS = 600  # longer than a step may take; the job's end removes it


@dataclass(frozen=True)
class Preview:
    """A picture of what an attempt has made after a step."""

    attempt: int
    step: int
    steps: int
    image: bytes  # WebP


class Previews:
    """Stores and reads previews. It never raises for a missing Redis."""

    def __init__(self, client: RestingRedis) -> None:
        self._redis = client

    def put(self, job_id: str, preview: Preview) -> bool:
        """Replace the job's preview, and publish on the feed that there is one. Return False if it was not stored."""
        if len(preview.image) > MOST_BYTES:
            return False
        told = {"attempt": preview.attempt, "step": preview.step, "steps": preview.steps}

        def question(client: Any) -> bool:
            pipe = client.pipeline(transaction=True)
            pipe.hset(preview_key(job_id), mapping={**told, "image": preview.image})
            pipe.expire(preview_key(job_id), KEEP_SECONDS)
            pipe.publish(FEED_CHANNEL, json.dumps({"job": job_id, "kind": "preview", **told}))
            pipe.execute()
            return True

        return bool(self._redis.ask(question))

    def get(self, job_id: str) -> Preview | None:
        """Return the job's latest preview; None if there is none, or Redis is unavailable."""
        found: Any = self._redis.ask(lambda client: client.hgetall(preview_key(job_id)))
        if not found:
            return None
        try:
            return Preview(int(found[b"attempt"]), int(found[b"step"]), int(found[b"steps"]), found[b"image"])
        except (KeyError, ValueError):  # of another version
            return None

    def drop(self, job_id: str) -> None:
        """Remove the job's preview."""
        self._redis.ask(lambda client: client.delete(preview_key(job_id)))
