"""What every process stands on: settings, states, catalogue, tables and the one writer of each.

Nothing here imports `api`, `workers`, `scheduler` or `cli`, and nothing here imports torch.
"""

import sys

# The Redis client takes in OpenTelemetry's metrics wherever they are installed, though nobody here asks for them: 3 MB
# and 20 ms of every process. Where they cannot be imported it does without. `telemetry/tracing.py` lets them in again.
KEPT_FROM_REDIS = ("opentelemetry.metrics", "opentelemetry.sdk.metrics")
for _name in KEPT_FROM_REDIS:
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]
