"""Start a GPU worker whose children import the no-op handler."""

import os
import sys

from workers import app as launcher

os.environ["WANWORKS_ROLE"] = "gpu"

from workers.celery_app import app

app.conf.update(include=[*app.conf.include, "tests.bench.noop"])
sys.argv = ["noop_worker", "gpu"]
launcher.main()
