"""How often each key asks: a sliding window of a minute, counted in Redis for all web processes together.

While Redis is away each process counts for itself, so that a limit is looser then, never gone.
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
        """One request more. Raises LimitReached, saying when there is room again."""
        item = RateLimitItemPerMinute(per_minute)
        left = self._redis.ask(lambda client: _seconds_to_wait(self._shared(client), item, key_id))
        if left is None:
            left = _seconds_to_wait(self._here, item, key_id)
        if left > 0:
            said = f"This API key may ask {per_minute} times a minute; ask again in {math.ceil(left)} s"
            raise LimitReached(said, math.ceil(left))

    def _shared(self, client: "redis.Redis") -> RateLimiter:
        if self._everywhere is None:
            storage = RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix="wanworks:rate")
            self._everywhere = SlidingWindowCounterRateLimiter(storage)
        return self._everywhere


def _seconds_to_wait(limiter: RateLimiter, item: RateLimitItem, key_id: str) -> float:
    """0 where the request may pass."""
    if limiter.hit(item, key_id):
        return 0.0
    return max(1.0, limiter.get_window_stats(item, key_id).reset_time - time.time())
