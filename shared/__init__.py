"""What all processes share: settings, states, catalogue, tables and the only writer of each.

Nothing here imports `api`, `workers`, `scheduler`, `wanworks.cli` or torch.
"""

import sys

# The Redis client imports OpenTelemetry's metrics if they are installed, which costs each process 3 MB and 20 ms. It
# works without them if the import fails. `telemetry/tracing.py` allows the import again.
KEPT_FROM_REDIS = ("opentelemetry.metrics", "opentelemetry.sdk.metrics")
for _name in KEPT_FROM_REDIS:
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]
