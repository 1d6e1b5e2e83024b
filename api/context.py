"""The services that handlers share, created once at start."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread
import httpx
from starlette.requests import Request

from api.access.authentication import Access
from api.access.rates import Rates
from api.services.admission.admission import Admission
from api.services.admission.fallbacks import Fallbacks
from api.services.admission.lora_names import LoraNames
from api.services.admission.memory_check import MemoryCheck
from api.services.archives import Archives
from api.services.bulk.actions import Actions
from api.services.bulk.runner import BulkRunner
from api.services.coalescing import Coalescer
from api.services.group_commit import Commits
from api.services.histories import Histories
from api.services.hosts import Hosts
from api.services.live import Live
from api.services.storage import Storage
from api.services.streams import Streams
from api.services.waker import Waker
from shared.catalogue import models as catalogues
from shared.catalogue.models import Catalogue
from shared.database.engine import Database
from shared.forecast.forecasts import Forecasts
from shared.management import library
from shared.management.library import Library, UseFigures
from shared.management.summary import Overviews
from shared.messaging.previews import Previews
from shared.messaging.progress import Progress, RestingRedis
from shared.settings import Settings
from shared.telemetry.metrics import Meters
from shared.telemetry.node_logs import NodeLogs

_FLOWER_SECONDS = 30.0
_IMAGES_AT_ONCE = 2  # decoding an image of the maximum size takes some hundred MB
_BATCHES_AT_ONCE = 2  # each may have a body of some ten MB
_READS_AT_ONCE = 8  # of the 32 connections to PostgreSQL; other requests have 40 threads of their own


@dataclass(frozen=True)
class Context:
    settings: Settings
    catalogue: Catalogue
    database: Database
    access: Access
    storage: Storage
    progress: Progress
    live: Live
    streams: Streams
    admission: Admission
    bulk_actions: Actions
    bulk_runner: BulkRunner
    batches: anyio.CapacityLimiter
    archives: Archives
    hosts: Hosts
    forecasts: Forecasts
    commits: Commits
    waker: Waker
    image_limiter: anyio.CapacityLimiter
    reads: anyio.CapacityLimiter
    coalescer: Coalescer
    redis: RestingRedis
    previews: Previews
    node_logs: NodeLogs
    meters: Meters
    library: Callable[[], Library]  # reads the model library; raises DatabaseUnavailable
    overviews: Overviews
    histories: Histories
    flower: httpx.AsyncClient  # for requests to Flower, which is another process


@asynccontextmanager
async def open_context(settings: Settings, catalogue: Catalogue) -> AsyncIterator[Context]:
    """Create the services. Connects to nothing yet: the database and Redis are contacted when first needed."""
    database = Database(settings.database)
    storage = Storage(settings, database)
    client = RestingRedis(settings.redis)
    progress = Progress(client)
    waker = Waker(client)
    meters = Meters(client)
    commits = Commits(database, storage.check_room, waker.wake)
    streams = Streams(settings.redis)
    live = Live(progress)
    figures = UseFigures(catalogue, database)
    read_library = partial(library.read, settings, catalogue, database, live.of, figures)
    hosts = Hosts(database, settings.device_silence_seconds)
    memory = MemoryCheck(catalogue, hosts, settings.loras_dir, refuses=settings.admission == "registered")
    fallbacks = Fallbacks(settings, catalogue, database, read_library, memory)
    flower = httpx.AsyncClient(timeout=_FLOWER_SECONDS, trust_env=False)
    admission = Admission(settings, catalogue, storage, fallbacks, memory, LoraNames(database, settings.loras_dir))
    actions = Actions(database, admission, storage, progress, meters, waker)
    bulk_runner = BulkRunner(database, actions, progress, meters, settings.node)
    bulk_runner.start()
    try:
        yield Context(
            settings=settings,
            catalogue=catalogue,
            database=database,
            access=Access(settings, database, Rates(client)),
            storage=storage,
            progress=progress,
            live=live,
            streams=streams,
            hosts=hosts,
            forecasts=Forecasts(database, settings.device_silence_seconds, progress),
            admission=admission,
            bulk_actions=actions,
            bulk_runner=bulk_runner,
            batches=anyio.CapacityLimiter(_BATCHES_AT_ONCE),
            archives=Archives(),
            commits=commits,
            waker=waker,
            image_limiter=anyio.CapacityLimiter(_IMAGES_AT_ONCE),
            reads=anyio.CapacityLimiter(_READS_AT_ONCE),
            coalescer=Coalescer(),
            redis=client,
            previews=Previews(client),
            node_logs=NodeLogs(settings),
            meters=meters,
            library=read_library,
            overviews=Overviews(settings, database, read_library),
            histories=Histories(database),
            flower=flower,
        )
    finally:
        await anyio.to_thread.run_sync(bulk_runner.stop)
        await anyio.to_thread.run_sync(commits.close)
        await anyio.to_thread.run_sync(waker.close)
        await anyio.to_thread.run_sync(meters.close)
        await streams.close()
        await flower.aclose()
        database.close()


def load_catalogue(settings: Settings) -> Catalogue:
    """Load the catalogue. Raises ConfigurationError."""
    return catalogues.load(settings.catalogue)


def context_of(request: Request) -> Context:
    context = request.state.context
    assert isinstance(context, Context)
    return context
