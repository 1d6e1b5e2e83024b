"""Limit the requests of each key per minute: a sliding window, counted in Redis for all web processes.

While Redis is unavailable each process counts for itself, so limits are looser but still apply.
"""

import math
import time

import redis
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import RateLimiter, SlidingWindowCounterRateLimiter

from shared.errors import LimitReached
from shared.messaging.progress import RestingRedis


class Rates:
    def __init__(self, client: RestingRedis) -> None:
        self._redis = client
        self._here: RateLimiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._everywhere: RateLimiter | None = None

    def count(self, key_id: str, per_minute: int) -> None:
        """Count one request. Raises LimitReached with the time until the next one is allowed."""
        item = RateLimitItemPerMinute(per_minute)
        left = self._redis.ask(lambda client: _seconds_to_wait(self._shared(client), item, key_id))
        if left is None:
            left = _seconds_to_wait(self._here, item, key_id)
        if left > 0:
            message = f"This API key may send {per_minute} requests per minute. Try again in {math.ceil(left)} s."
            raise LimitReached(message, math.ceil(left))

    def _shared(self, client: "redis.Redis") -> RateLimiter:
        if self._everywhere is None:
            storage = RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix="wanworks:rate")
            self._everywhere = SlidingWindowCounterRateLimiter(storage)
        return self._everywhere


def _seconds_to_wait(limiter: RateLimiter, item: RateLimitItem, key_id: str) -> float:
    """Return how long to wait; 0 if the request is allowed."""
    if limiter.hit(item, key_id):
        return 0.0
    return max(1.0, limiter.get_window_stats(item, key_id).reset_time - time.time())
