"""Every route of the API, in one table. An endpoint is one handler and one row here."""

from typing import Any

from api import (
    alert_schemas,
    alerts,
    analytics,
    artifacts,
    audit,
    cleanup,
    dashboard,
    docs,
    estimate,
    events,
    fallback,
    flower,
    insight,
    insight_schemas,
    jobs,
    live_page,
    login,
    model_downloads,
    model_health,
    model_schemas,
    model_status,
    models,
    node_jobs,
    nodes,
    openapi,
    ops,
    page_schemas,
    prometheus,
    schemas,
    video_schemas,
    videos,
    webhooks,
)
from api.flower import FLOWER_PATH, FLOWER_TABLE
from api.operation import Answer, Operation
from api.query import AnyQuery, ArtifactQuery, JobsQuery
from shared.catalogue.job_types import GenerationRequest
from shared.catalogue.models import Catalogue
from shared.states import Scope

_JOBS = "/api/v1/jobs"
_MODELS = "/api/v1/models"
_INSIGHT = "/api/v1/wan-models"
_DASHBOARD = "/api/v1/dashboard"
_NODES = "/api/v1/nodes"
_VIDEOS = "/v1/videos"
_MADE = (
    Answer(202, "The job, on disk and queued.", schemas.Job, headers=("Location",)),
    Answer(200, "The job that this key made before.", schemas.Job, headers=("Location", "Idempotency-Replayed")),
)

_MADE_ON_NODES = (
    Answer(202, "The job, or one for each node, on disk and queued.", model_schemas.JobOrJobs, headers=("Location",)),
    Answer(200, "What this key made before.", model_schemas.JobOrJobs, headers=("Location", "Idempotency-Replayed")),
)

OPERATIONS = (
    Operation(
        "POST", f"{_JOBS}/generation", jobs.create_generation, "createGeneration", "Ask for a video",
        answers=_MADE, problems=(400, 413, 415, 503, 507), headers=("Idempotency-Key",), body=GenerationRequest,
        description="JSON, or a form with the image as a file part `image`; there, `loras`, `fallback` and `metadata` "
        "are JSON texts. What is left out takes the model's native value.", scope=Scope.SUBMIT,
    ),
    Operation(
        "POST", f"{_JOBS}/download", node_jobs.create_download, "createDownload", "Fetch a model to a node",
        answers=_MADE, problems=(400, 404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=model_schemas.DownloadRequest,
        description="409 where one of that model to that node is under way already.", scope=Scope.ADMIN,
    ),
    Operation(
        "POST", f"{_JOBS}/integrity-check", node_jobs.create_integrity_check, "createIntegrityCheck",
        "Verify models, and repair them on request",
        answers=_MADE_ON_NODES, problems=(400, 404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=model_schemas.IntegrityCheckRequest, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", f"{_JOBS}/cleanup", node_jobs.create_cleanup, "createCleanup", "Cleanup as a job",
        answers=_MADE_ON_NODES, problems=(400, 409, 413, 415, 503, 507), headers=("Idempotency-Key",),
        body=model_schemas.CleanupRequest, scope=Scope.ADMIN,
    ),
    Operation(
        "GET", _JOBS, jobs.list_jobs, "listJobs", "List jobs, newest first",
        answers=(Answer(200, "A page of jobs.", schemas.JobPage),), problems=(503,), query=JobsQuery, scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_JOBS}/{{id}}", jobs.get_job, "getJob", "One job",
        answers=(Answer(200, "The job.", schemas.Job, headers=("Preference-Applied",)),),
        problems=(404, 503), headers=("Prefer",), scope=Scope.READ,
    ),
    Operation(
        "DELETE", f"{_JOBS}/{{id}}", jobs.delete, "deleteJob", "Cancel a job if need be, and remove it",
        answers=(Answer(204, "It is not shown any more; its artifacts go with it.", media_type=None),),
        problems=(404, 503), scope=Scope.SUBMIT,
    ),
    Operation(
        "POST", f"{_JOBS}/{{id}}/cancel", jobs.cancel, "cancelJob", "Cancel a job",
        answers=(Answer(202, "The job: cancelled, or still running and asked to stop.", schemas.Job),),
        problems=(404, 409, 503), description="Asking again for a job that is already cancelled changes nothing.",
        scope=Scope.SUBMIT,
    ),
    Operation(
        "POST", f"{_JOBS}/{{id}}/retry", jobs.retry, "retryJob", "The same again, as a new job",
        answers=_MADE, problems=(404, 409, 503, 507), headers=("Idempotency-Key",), scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", f"{_JOBS}/{{id}}/events", events.job_events, "jobEvents", "Watch a job (Server-Sent Events)",
        answers=(Answer(200, "Events until the job's end.", media_type="text/event-stream"),),
        problems=(404, 503), headers=("Last-Event-ID",),
        description="`snapshot` first and `end` last carry the whole job; `progress` and `state` what changed. With "
        "`Last-Event-ID` what was missed is told first.", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_JOBS}/{{id}}/artifacts/{{name}}", artifacts.get_artifact, "getArtifact", "A file that the job made",
        answers=(
            Answer(200, "The whole file.", media_type="*/*", headers=("ETag", "Accept-Ranges")),
            Answer(206, "Parts of it.", media_type="*/*", headers=("ETag", "Content-Range")),
            Answer(304, "The client has it.", media_type=None, headers=("ETag",)),
            Answer(307, "It lies in a bucket, at this signed address.", media_type=None, headers=("Location",)),
        ),
        problems=(404, 416, 503), headers=("Range", "If-Range", "If-None-Match"), query=ArtifactQuery,
        scope=Scope.READ, by_link=True,
    ),
    Operation(
        "POST", f"{_JOBS}/{{id}}/artifacts/{{name}}/link", artifacts.make_link, "linkArtifact",
        "A link to a file that needs no key and expires",
        answers=(Answer(200, "The link.", schemas.ArtifactLink),), problems=(400, 404, 413, 415, 503),
        body=schemas.LinkRequest, body_required=False, scope=Scope.READ,
    ),
    Operation(
        "POST", _VIDEOS, videos.create, "createVideo", "Ask for a video, as the openai client does",
        answers=(
            Answer(
                200, "The video, on disk and queued; or the one that this key made before.", video_schemas.Video,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(413, 415, 503, 507), headers=("Idempotency-Key",), body=video_schemas.VideoRequest, tag="videos",
        description="JSON, or a form with the picture as a file part `input_reference`. What is left out takes the "
        "model's native value.", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", _VIDEOS, videos.list_videos, "listVideos", "List videos",
        answers=(Answer(200, "A page of videos.", video_schemas.VideoPage),), problems=(503,),
        query=video_schemas.VideosQuery, tag="videos", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_VIDEOS}/{{id}}", videos.retrieve, "retrieveVideo", "One video",
        answers=(Answer(200, "The video.", video_schemas.Video, headers=("openai-poll-after-ms",)),),
        problems=(404, 503), tag="videos", scope=Scope.READ,
    ),
    Operation(
        "DELETE", f"{_VIDEOS}/{{id}}", videos.delete, "deleteVideo", "Cancel a video if need be, and remove it",
        answers=(Answer(200, "It is not shown any more; its files go with it.", video_schemas.VideoDeleted),),
        problems=(404, 503), tag="videos", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", f"{_VIDEOS}/{{id}}/content", videos.content, "videoContent", "A video's file",
        answers=(
            Answer(200, "The whole file.", media_type="*/*", headers=("ETag", "Accept-Ranges")),
            Answer(206, "Parts of it.", media_type="*/*", headers=("ETag", "Content-Range")),
            Answer(304, "The client has it.", media_type=None, headers=("ETag",)),
            Answer(307, "It lies in a bucket, at this signed address.", media_type=None, headers=("Location",)),
        ),
        problems=(404, 409, 416, 503), headers=("Range", "If-Range", "If-None-Match"),
        query=video_schemas.ContentQuery, tag="videos", scope=Scope.READ,
    ),
    Operation(
        "POST", f"{_VIDEOS}/{{id}}/remix", videos.remix, "remixVideo", "The same video to another prompt",
        answers=(
            Answer(
                200, "The new video, on disk and queued; or the one that this key made before.", video_schemas.Video,
                headers=("Location", "Idempotency-Replayed"),
            ),
        ),
        problems=(404, 409, 413, 415, 503, 507), headers=("Idempotency-Key",), body=video_schemas.RemixRequest,
        tag="videos", description="Its model, size, length, seed and picture stay.", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/v1/models", videos.list_models, "listOfferedModels", "Which models can be asked for",
        answers=(Answer(200, "Every model of the catalogue.", video_schemas.OfferedModels),), tag="videos",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/v1/models/{model:path}", videos.retrieve_model, "retrieveOfferedModel", "One of them, by any name",
        answers=(Answer(200, "The model.", video_schemas.OfferedModel),), problems=(404,), tag="videos",
        scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_MODELS}/status/detailed", model_status.detailed_status, "detailedStatus",
        "Availability, downloads, versions and use of every model",
        answers=(Answer(200, "Every model of the catalogue.", model_schemas.DetailedStatus),), problems=(503,),
        tag="models", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_MODELS}/health", model_health.health, "modelsHealth", "How well the models are",
        answers=(Answer(200, "Every model, and what should be done.", model_schemas.LibraryHealth),), problems=(503,),
        tag="models", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_MODELS}/analytics", analytics.analytics, "modelsAnalytics", "How much the models are used",
        answers=(Answer(200, "Over the days asked.", model_schemas.Analytics),), problems=(503,),
        query=model_schemas.AnalyticsQuery, tag="models", scope=Scope.READ,
    ),
    Operation(
        "POST", f"{_MODELS}/download/manage", model_downloads.manage, "manageDownload", "Steer a download",
        answers=(Answer(200, "What was reached within two seconds.", model_schemas.Managed),),
        problems=(400, 404, 409, 413, 415, 503), body=model_schemas.ManageRequest, tag="models", scope=Scope.ADMIN,
    ),
    Operation(
        "POST", f"{_MODELS}/cleanup", cleanup.cleanup, "cleanup", "Make room in the model storage",
        answers=(
            Answer(
                200, "The plan, and what was done within 30 seconds.", model_schemas.Cleanup,
                headers=("Idempotency-Replayed",),
            ),
        ),
        problems=(400, 409, 413, 415, 503), headers=("Idempotency-Key",), body=model_schemas.CleanupRequest,
        tag="models", description="Nothing is removed unless `dry_run` is false.", scope=Scope.ADMIN,
    ),
    Operation(
        "POST", f"{_MODELS}/fallback/suggest", fallback.suggest_fallback, "suggestFallback",
        "What to do when a model cannot serve at once",
        answers=(Answer(200, "The best strategy and the others.", model_schemas.FallbackSuggestion),),
        problems=(400, 404, 413, 415, 503), body=model_schemas.FallbackRequest, tag="models", scope=Scope.READ,
    ),
    Operation(
        "POST", f"{_MODELS}/{{model_id}}/pin", models.pin, "pinModel", "Keep a model whatever cleanup wants",
        answers=(Answer(200, "It is pinned.", model_schemas.Pinned),), problems=(404, 503), tag="models",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", f"{_MODELS}/{{model_id}}/pin", models.unpin, "unpinModel", "Let cleanup take a model again",
        answers=(Answer(200, "It is not pinned.", model_schemas.Pinned),), problems=(404, 503), tag="models",
        scope=Scope.ADMIN,
    ),
    Operation(
        "GET", "/api/v1/dashboard/alerts", alerts.list_alerts, "listAlerts", "What is wrong, newest first",
        answers=(Answer(200, "Alerts.", alert_schemas.SystemAlerts),), problems=(503,),
        query=alert_schemas.AlertsQuery, tag="dashboard", scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/dashboard/alerts/{id}/acknowledge", alerts.acknowledge, "acknowledgeAlert",
        "Say that somebody takes care",
        answers=(Answer(200, "The alert.", alert_schemas.SystemAlert),), problems=(400, 404, 413, 415, 503),
        body=alert_schemas.Acknowledgement, body_required=False, tag="dashboard",
        description="The first name stands; asking again changes nothing.", scope=Scope.ADMIN,
    ),
    Operation(
        "GET", f"{_INSIGHT}/capabilities/{{model_type}}", insight.capabilities, "modelCapabilities",
        "What a model can be asked for",
        answers=(
            Answer(200, "From the catalogue.", insight_schemas.ModelCapabilities, headers=("ETag",)),
            Answer(304, "The client has it.", media_type=None, headers=("ETag",)),
        ),
        problems=(404,), headers=("If-None-Match",), tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_INSIGHT}/health/{{model_type}}", insight.health, "modelHealthMetrics",
        "How well a model is, now and over 24 hours",
        answers=(Answer(200, "Its health.", insight_schemas.ModelHealthMetrics),), problems=(404, 503), tag="insight",
        scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_INSIGHT}/performance/{{model_type}}", insight.performance, "modelPerformance",
        "What a model has shown over 30 days",
        answers=(Answer(200, "Its performance.", insight_schemas.ModelPerformance),), problems=(404, 503),
        tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_INSIGHT}/compare/{{model_a}}/{{model_b}}", insight.compare, "compareModels",
        "Two models side by side",
        answers=(Answer(200, "Every difference is b relative to a.", insight_schemas.ModelComparison),),
        problems=(404, 503), tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_INSIGHT}/recommend", insight.recommend, "recommendModel", "Which model suits a purpose",
        answers=(Answer(200, "The best that fits, with reasons.", insight_schemas.ModelRecommendation),),
        problems=(503,), query=insight_schemas.RecommendQuery, tag="insight",
        description="The memory constraint is a hard limit: where nothing fits, `recommended_model` is null.",
        scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_INSIGHT}/dashboard", insight.dashboard, "insightDashboard", "Everything about every model",
        answers=(Answer(200, "Models, alerts and recommendations.", insight_schemas.InsightDashboard),),
        problems=(503,), tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_INSIGHT}/status", insight.status, "insightStatus", "Which models can be used now",
        answers=(Answer(200, "The status in one word.", insight_schemas.InsightStatus),), problems=(503,),
        tag="insight", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_DASHBOARD}/overview", dashboard.overview, "dashboardOverview", "Everything, and how well it is",
        answers=(Answer(200, "The dashboard's body with the system's health.", insight_schemas.DashboardOverview),),
        problems=(503,), tag="dashboard", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_DASHBOARD}/metrics", dashboard.metrics, "dashboardMetrics", "The whole in figures now",
        answers=(Answer(200, "Counts and means.", insight_schemas.DashboardMetrics),), problems=(503,),
        tag="dashboard", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_DASHBOARD}/metrics/history", dashboard.metrics_history, "dashboardMetricsHistory",
        "The same over time",
        answers=(Answer(200, "At most 500, oldest first.", insight_schemas.MetricsHistory),), problems=(503,),
        query=insight_schemas.HistoryQuery, tag="dashboard",
        description="From snapshots of every minute, kept for 90 days. Of several that become one, counts are the "
        "highest, healthy models the fewest, and the rest means.", scope=Scope.READ,
    ),
    Operation(
        "GET", f"{_DASHBOARD}/models", dashboard.models, "dashboardModels", "Each model in a line",
        answers=(Answer(200, "In the catalogue's order.", insight_schemas.ModelSummaries),), problems=(503,),
        tag="dashboard", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/webhooks/messages", webhooks.list_messages, "listWebhookMessages",
        "What jobs' webhooks were and are to be told",
        answers=(Answer(200, "A page of messages.", webhooks.WebhookMessagePage),), problems=(503,),
        query=webhooks.WebhookMessagesQuery, tag="operations", scope=Scope.READ,
    ),
    Operation(
        "POST", "/api/v1/webhooks/messages/{message_id}/replay", webhooks.replay, "replayWebhookMessage",
        "Send a message once more",
        answers=(Answer(202, "It waits to be sent.", webhooks.WebhookMessage),), problems=(404, 409, 503),
        tag="operations", scope=Scope.SUBMIT,
    ),
    Operation(
        "GET", "/api/v1/audit", audit.list_entries, "listAudit", "What was administered, and by whom",
        answers=(Answer(200, "A page of entries.", audit.AuditPage),), problems=(503,), query=audit.AuditQuery,
        tag="operations", scope=Scope.ADMIN,
    ),
    Operation(
        "GET", "/api/v1/workers", ops.workers, "listWorkers", "Devices and nodes, and what runs where",
        answers=(Answer(200, "All that ever registered.", schemas.Workers),), problems=(503,), tag="operations",
        scope=Scope.READ,
    ),
    Operation(
        "GET", _NODES, nodes.list_nodes, "listNodes", "Nodes with their devices, and what is drained",
        answers=(Answer(200, "All that registered and were not removed.", schemas.Nodes),), problems=(503,),
        tag="operations", scope=Scope.READ,
    ),
    Operation(
        "POST", f"{_NODES}/{{node}}/drain", nodes.drain, "drainNode",
        "Let a node finish what runs and take nothing new",
        answers=(Answer(200, "The node; `drained` once nothing runs there.", schemas.Node),), problems=(404, 503),
        tag="operations", description="It stays so until it is undone, whatever becomes of the node's processes.",
        scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", f"{_NODES}/{{node}}/drain", nodes.undrain, "undrainNode", "Let a node take jobs again",
        answers=(Answer(200, "The node.", schemas.Node),), problems=(404, 503), tag="operations", scope=Scope.ADMIN,
    ),
    Operation(
        "DELETE", f"{_NODES}/{{node}}", nodes.remove, "removeNode", "Forget a node that has gone for good",
        answers=(Answer(204, "Its devices and replicas are forgotten with it.", media_type=None),),
        problems=(404, 409, 503), tag="operations", scope=Scope.ADMIN,
        description="409 while it is heard of, or a job counts as running there. Downloads, checks and cleanups that "
        "wait for it fail as `node_lost`.",
    ),
    Operation(
        "GET", "/api/v1/queues", ops.queues, "listQueues", "Queue depths and the age of the oldest job",
        answers=(Answer(200, "By priority and model.", schemas.Queues),), problems=(503,), tag="operations",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/dashboard/estimate", estimate.estimate, "estimateGeneration",
        "What a generation would take, from measured jobs",
        answers=(Answer(200, "In seconds; null where nothing was measured.", page_schemas.Estimate),),
        problems=(404, 503), query=page_schemas.EstimateQuery, tag="dashboard", scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/dashboard/flower", flower.flower, "whereIsFlower", "The way to Flower",
        answers=(Answer(200, "Where it is, and whether it answers.", page_schemas.Flower),), tag="dashboard",
        scope=Scope.READ,
    ),
    Operation(
        "GET", "/api/v1/dashboard/html", live_page.page, "livePage", "The live page",
        answers=(Answer(200, "A page that loads nothing from another host.", media_type="text/html"),),
        tag="dashboard", scope=None,
    ),
    Operation(
        "GET", "/login", login.page, "loginPage", "Where the page asks for a key", answers=(), documented=False,
        scope=None,
    ),
    Operation(
        "POST", "/login", login.sign_in, "signIn", "A session for a key", answers=(), documented=False, scope=None,
    ),
    Operation(
        "POST", "/logout", login.sign_out, "signOut", "The session's end", answers=(), documented=False, scope=None,
    ),
    Operation(
        "GET", FLOWER_PATH.rstrip("/"), flower.with_slash, "flowerWithoutSlash", "The way to Flower", answers=(),
        documented=False, query=AnyQuery, scope=None,
    ),
    Operation(
        "GET", FLOWER_TABLE, flower.proxied, "readFlowerTasks", "Flower's table of tasks", answers=(), documented=False,
        query=AnyQuery, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", FLOWER_TABLE, flower.proxied, "askFlowerTasks", "Flower's table of tasks", answers=(), documented=False,
        query=AnyQuery, scope=Scope.ADMIN, changes=False,
    ),
    Operation(
        "GET", f"{FLOWER_PATH}{{path:path}}", flower.proxied, "readFlower", "Flower's pages", answers=(),
        documented=False, query=AnyQuery, scope=Scope.ADMIN,
    ),
    Operation(
        "POST", f"{FLOWER_PATH}{{path:path}}", flower.proxied, "askFlower", "What Flower's pages ask for", answers=(),
        documented=False, query=AnyQuery, scope=Scope.ADMIN,
    ),
    Operation("GET", "/", live_page.page, "home", "The live page", answers=(), documented=False, scope=None),
    Operation(
        "GET", "/static/{version}/{file}", live_page.file, "pageFile", "A file of the live page", answers=(),
        documented=False, scope=None,
    ),
    Operation(
        "GET", "/healthz", ops.healthz, "healthz", "Liveness",
        answers=(Answer(200, "The process answers.", schemas.Health),), tag="operations", scope=None,
    ),
    Operation(
        "GET", "/readyz", ops.readyz, "readyz", "Readiness",
        answers=(Answer(200, "Jobs are accepted; `degraded` where something else is missing.", schemas.Readiness),),
        problems=(503,), tag="operations", scope=None,
    ),
    Operation(
        "GET", "/metrics", prometheus.metrics, "metrics", "Figures for Prometheus",
        answers=(Answer(200, "Of the whole installation, whichever web process answers.", media_type="text/plain"),),
        problems=(503,), tag="operations", scope=Scope.READ,
    ),
    Operation(
        "GET", "/openapi.json", docs.openapi, "openapi", "This document",
        answers=(
            Answer(200, "OpenAPI 3.1.", headers=("ETag",)),
            Answer(304, "The client has it.", media_type=None, headers=("ETag",)),
        ),
        headers=("If-None-Match",), tag="operations", scope=None,
    ),
    Operation(
        "GET", "/docs", docs.page, "docs", "Interactive documentation",
        answers=(Answer(200, "A page that loads nothing from another host.", media_type="text/html"),),
        tag="operations", scope=None,
    ),
    Operation(
        "GET", "/docs/{file}", docs.file, "docsFile", "A file of the documentation page", answers=(), documented=False,
        scope=None,
    ),
)  # fmt: skip


def document(catalogue: Catalogue, public_path: str = "") -> dict[str, Any]:
    """The OpenAPI document of this table."""
    return openapi.document(OPERATIONS, catalogue, public_path)
