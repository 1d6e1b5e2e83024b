"""All routes of the API: joins the tables of all packages."""

from typing import Any

from api.dashboard import estimate, first_run, live_page, login
from api.dashboard import handlers as dashboard
from api.documentation import handlers as documentation
from api.documentation import openapi
from api.flows import handlers as flows
from api.gallery import collections
from api.gallery import videos as gallery
from api.jobs import benchmarks, dead, events, logs, node_jobs, webhooks
from api.jobs import handlers as jobs
from api.jobs.files import artifacts, inputs, previews
from api.jobs.many import batches, bulk
from api.loras import handlers as loras
from api.models import analytics, catalogue, cleanup, downloads, fallback, information, status, tiers
from api.models import health as model_health
from api.ops import alerts, audit, flower, health, node_logs, nodes, pauses, prometheus, queues, usage, workers
from api.videos import handlers as videos
from shared.catalogue.models import Catalogue

OPERATIONS = (
    *jobs.OPERATIONS,
    *dead.OPERATIONS,
    *flows.OPERATIONS,
    *batches.OPERATIONS,
    *bulk.OPERATIONS,
    *gallery.OPERATIONS,
    *collections.OPERATIONS,
    *node_jobs.OPERATIONS,
    *benchmarks.OPERATIONS,
    *loras.OPERATIONS,
    *events.OPERATIONS,
    *artifacts.OPERATIONS,
    *previews.OPERATIONS,
    *inputs.OPERATIONS,
    *logs.OPERATIONS,
    *videos.OPERATIONS,
    *status.OPERATIONS,
    *model_health.OPERATIONS,
    *analytics.OPERATIONS,
    *downloads.OPERATIONS,
    *cleanup.OPERATIONS,
    *fallback.OPERATIONS,
    *catalogue.OPERATIONS,
    *alerts.OPERATIONS,
    *information.OPERATIONS,
    *tiers.OPERATIONS,
    *dashboard.OPERATIONS,
    *webhooks.OPERATIONS,
    *audit.OPERATIONS,
    *workers.OPERATIONS,
    *queues.OPERATIONS,
    *pauses.OPERATIONS,
    *usage.OPERATIONS,
    *health.OPERATIONS,
    *nodes.OPERATIONS,
    *node_logs.OPERATIONS,
    *estimate.OPERATIONS,
    *first_run.OPERATIONS,
    *flower.OPERATIONS,
    *live_page.OPERATIONS,
    *login.OPERATIONS,
    *prometheus.OPERATIONS,
    *documentation.OPERATIONS,
)


def document(catalogue: Catalogue, public_path: str = "") -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    return openapi.document(OPERATIONS, catalogue, public_path)
