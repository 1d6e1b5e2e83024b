"""Start a Celery worker: `python -m workers.app gpu` for the device in WANWORKS_DEVICE, or `... io` for the node.

This process becomes the worker's main process.
"""

import os
import signal
import sys
from collections.abc import MutableMapping

from shared import garbage, startup

if __name__ == "__mp_main__" and os.environ.get("WANWORKS_ROLE") == "io":
    # A child of the io worker imports this module first. Its start, its hashing and its downloads must not take CPU
    # time from a generation's step or from the start of the other processes.
    os.nice(10)
if __name__ in ("__main__", "__mp_main__"):
    startup.begin()

from shared.messaging import celery
from workers.processes import process

_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def set_allocator(environ: MutableMapping[str, str], configuration: str) -> None:
    """Configure torch's allocator for the children of a GPU's worker, unless the operator has.

    With expandable segments, components of different sizes take turns in the same memory. By default each size keeps
    segments of its own, and the next one may find none large enough.
    """
    on_gpu = environ.get("WANWORKS_DEVICE", "").startswith("cuda")
    if on_gpu and configuration and not any(name in environ for name in _ALLOCATOR_VARIABLES):
        environ[_ALLOCATOR_VARIABLES[0]] = configuration


def main() -> None:
    if sys.argv[1:] not in (["gpu"], ["io"]):
        sys.exit("usage: python -m workers.app gpu|io")
    os.environ["WANWORKS_ROLE"] = sys.argv[1]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the worker holds a job, both signals end the process at once
    node = process.settings().node
    if sys.argv[1] == "gpu":
        set_allocator(os.environ, process.settings().torch_alloc_conf)
        name, queues = process.worker_name(), celery.device_queue(process.claimant().device_key)
    else:
        name, queues = f"io@{node}", f"{celery.node_queue(node)},{celery.TICKS_QUEUE}"
    from workers.celery_app import app  # reads the role
    from workers.processes.child_process import set_up_logs

    level = process.settings().log_level
    argv = ["--quiet", "worker", "--hostname", name, "--queues", queues, "--pool", "prefork", "--loglevel", level, "-E"]
    set_up_logs()  # for warnings that Celery logs before it sets up logging itself
    garbage.freeze()  # the pool collects garbage before it starts each child
    app.worker_main([*argv, "--without-gossip", "--without-mingle"])


if __name__ == "__main__":
    main()
