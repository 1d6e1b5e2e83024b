"""Raw Celery: how fast as many threads put messages on the same Redis. Prints messages per second as JSON."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from shared.messaging import celery
from shared.settings import load


def main() -> None:
    threads, count = int(sys.argv[1]), int(sys.argv[2])
    app = celery.celery_app(load(), "wanworks.bench")

    @app.task(name="wanworks.bench.nothing")  # type: ignore[untyped-decorator]
    def task(job_id: str, protocol: int) -> None: ...

    def send(share: int) -> None:
        for place in range(share):
            task.apply_async(args=(f"{place}", 1), queue="bench")

    send(10)
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(send, [count // threads] * threads))
    print(json.dumps({"rate": count / (time.monotonic() - began)}))


if __name__ == "__main__":
    main()
