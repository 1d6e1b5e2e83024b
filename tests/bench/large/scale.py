"""Large installations: a million jobs stored, a hundred thousand queued, five hundred devices."""

import contextlib
import json
import random
import sqlite3
import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any
from urllib.parse import urlencode

from scheduler import ticks
from scheduler.dispatcher import Dispatcher
from scheduler.sender import Send, celery_sender
from shared import garbage
from shared.catalogue.job_types import DownloadParams, IntegrityCheckParams
from shared.cluster import nodes as nodes_table
from shared.database.engine import Database, migrate
from shared.jobs import accepting
from shared.jobs.claims import pauses
from shared.jobs.dispatch import Waiting
from shared.jobs.lines.names import line_of
from shared.jobs.reading import queues
from shared.models import replicas
from shared.settings import Settings, load
from shared.states import JobState
from shared.storage.directory import DirectoryStore
from tests.bench.load import open_loop
from tests.bench.support.postgresql import postgresql
from tests.bench.support.row import Row
from tests.support import flows
from tests.support.flows import Node
from tests.support.jobs import DEMO, hold, new_job
from tests.support.models import library

STORED, QUEUED = 1_000_000, 100_000
DEVICES, NODES = 500, 50
PAUSES, START_TIMES, FLOWS = 100, 10_000, 1_000
_RATE, _SECONDS = 20.0, 5.0
_LIST_MS, _LOOK_MS, _SEARCH_MS = 50.0, 100.0, 250.0
_SEARCHES = ("/api/v1/gallery?limit=60&q=zebra", "/api/v1/gallery?limit=60&q=zebra+lake&size=64x64")
_MODELS = DEMO.model_ids
_COLUMNS = (
    "id, type, status, model_id, warm_key, target_node, priority, owner, mock, min_vram_mb, min_ram_mb, line, work, "
    "params, metadata, created_at, queued_at, not_before, started_at, finished_at, percent, attempt, failures, "
    "max_failures, hidden, webhook_progress"
)


def scale(bench: Any) -> list[Row]:
    """Takes the bench, which starts a stack of which only the web process and Redis run."""
    rows = []
    garbage.settle()  # as a dispatcher does at its start
    for name in ("SQLite", "PostgreSQL"):
        with _server(bench, name) as (url, environment):
            rows += [_named(row, name) for row in _stored(bench, url, environment)]
            rows += [_named(row, name) for row in _passes(bench, name, url)]
    return rows


def _named(row: Row, database: str) -> Row:
    return Row(f"{database}: {row.what}", row.measured, row.bound, row.holds)


@contextlib.contextmanager
def _server(bench: Any, name: str) -> Iterator[tuple[Callable[[str], str], dict[str, str]]]:
    """Gives the URL of a new, empty, migrated database for a name."""
    if name == "SQLite":
        folder = bench.folder / "scale"
        folder.mkdir(exist_ok=True)
        yield lambda database: f"sqlite:///{folder / database}.db", {}
        return
    with postgresql() as server:

        def made(database: str) -> str:
            import psycopg

            with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {database}")
            head, _, tail = server.partition("?")
            return f"{head.rpartition('/')[0]}/{database}?{tail}"

        yield made, {}


def _stored(bench: Any, url_of: Callable[[str], str], environment: dict[str, str]) -> list[Row]:
    """Lists and figures with everything stored."""
    url = url_of("stored")
    migrate(url)
    database = Database(url)
    store(database, ended=STORED - QUEUED, queued=QUEUED)
    _store_videos(database)
    rows = []
    with bench.stack("--only", "web,redis", WANWORKS_DATABASE_URL=url, **environment) as stack:
        _devices(database, 2, 2)
        worst, which = 0.0, ""
        for path in _lists(database):
            open_loop(stack.url, path, None, connections=4, rate=_RATE, seconds=0.5)
            load_seen = open_loop(stack.url, path, None, connections=16, rate=_RATE, seconds=_SECONDS)
            assert set(load_seen.statuses) == {200}, (path, load_seen.statuses)
            if load_seen.percentile(0.99) > worst:
                worst, which = load_seen.percentile(0.99), path.split("?")[1]
        what = f"lists of jobs and videos under every filter and pair of filters, worst p99 at 20 requests/s ({which})"
        rows.append(_within(what, worst, _LIST_MS))
        rows.append(_gallery(stack.url, "windows of the gallery under each filter", _windows(database), _LIST_MS))
        rows.append(_gallery(stack.url, "a search of the gallery that finds nothing", _SEARCHES, _SEARCH_MS))
        for path in ("/api/v1/queues", "/metrics"):
            open_loop(stack.url, path, None, connections=1, rate=2.0, seconds=2.0)
            seen = open_loop(stack.url, path, None, connections=1, rate=4.0, seconds=5.0)
            rows.append(_within(f"{path}, median", seen.percentile(0.5), _LOOK_MS))
    empty = DirectoryStore.opened(bench.folder / f"store-{uuid.uuid4()}", lambda: "bench", create=True)
    looks: dict[str, Callable[[], object]] = {
        "a pass of the feed": lambda: queues.stirred(database, datetime.now(UTC) - timedelta(seconds=10)),
        "retention with nothing to do": lambda: ticks.apply_retention(database, empty, timedelta(days=3650)),
        "sweep with nothing to do": lambda: ticks.sweep(database, empty),
    }
    rows += [_within(what, _median(look), _LOOK_MS) for what, look in looks.items()]
    database.close()
    return rows


def _store_videos(database: Database) -> None:
    """Add the row of the gallery for each finished generation; the places are as far apart as need be."""
    place = "row_number() OVER (ORDER BY id) * 1000"
    prompt = "'a paper boat drifts over a dark lake while rain falls on old roofs in the evening light'"
    with database.write() as session:
        session.connection().exec_driver_sql(
            "INSERT INTO videos (job_id, place, owner, model_id, size, prompt) "
            f"SELECT id, {place}, owner, model_id, '64x64', {prompt} FROM jobs "
            "WHERE status = 'succeeded' AND type = 'generation'"
        )
        if not database.is_sqlite:
            session.connection().exec_driver_sql("ANALYZE videos")


def _windows(database: Database) -> Iterator[str]:
    """The first and the last window under each filter without a search."""
    filters: list[dict[str, str]] = [
        {},
        {"size": "64x64"},
        {"size": "1x1"},
        *({"model_id": model} for model in _MODELS),
    ]
    filters += [{"model_id": _MODELS[0], "size": "64x64"}, {"lora": "none"}, {"favourite": "true"}]
    for query in filters:
        for offset in ("0", "9940"):
            yield f"/api/v1/gallery?{urlencode({'limit': '60', 'offset': offset, **query})}"


def _gallery(url: str, what: str, paths: Iterable[str], bound: float) -> Row:
    worst, which = 0.0, ""
    for path in paths:
        open_loop(url, path, None, connections=4, rate=_RATE, seconds=0.5)
        seen = open_loop(url, path, None, connections=16, rate=_RATE, seconds=_SECONDS)
        assert set(seen.statuses) == {200}, (path, seen.statuses)
        if seen.percentile(0.99) > worst:
            worst, which = seen.percentile(0.99), path.split("?")[1]
    return _within(f"{what}, worst p99 at {_RATE:g} requests/s ({which})", worst, bound)


def _lists(database: Database) -> Iterator[str]:
    """Every filter, every pair of them, deep cursors, and videos in both orders."""
    with database.read() as session:
        connection = session.connection()
        deep = connection.exec_driver_sql("SELECT id FROM jobs ORDER BY id LIMIT 1 OFFSET 5000").scalar_one()
    last_hour = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    last_month = (datetime.now(UTC) - timedelta(days=29)).isoformat()
    filters: list[dict[str, str]] = [
        *({"status": state} for state in ("queued", "running", "succeeded", "failed", "cancelled")),
        *({"type": type} for type in ("generation", "download", "integrity_check")),
        *({"model_id": model} for model in _MODELS),
        {"created_after": last_hour},
        {"created_after": last_month},
        {"after": deep},
    ]
    pairs = [one | other for one, other in combinations(filters, 2) if one.keys() != other.keys()]
    for query in ({}, *filters, *pairs):
        yield f"/api/v1/jobs?{urlencode({'limit': '50', **query})}"
    for order in ("asc", "desc"):
        yield f"/v1/videos?limit=50&order={order}"
        yield f"/v1/videos?limit=50&order={order}&after={deep}"


def _passes(bench: Any, name: str, url_of: Callable[[str], str]) -> list[Row]:
    """The dispatcher's passes."""
    rows = []
    with bench.stack("--only", "redis") as stack:
        redis_url = stack.state()["redis_url"]
        with _farm(url_of("farm"), QUEUED, DEVICES, owners=1) as database:
            settings = _settings(redis_url, database)
            whole, first = _first_pass(settings, database)
            what = f"a pass, {QUEUED:,} queued, {DEVICES} devices, all idle"
            rows.append(_within(what, whole, 1000.0))
            rows.append(_within(f"{what}: the first dispatch is sent", first, 200.0))
            rows.append(_within("the same in the steady state", _steady(settings, database), 100.0))
        with _farm(url_of("controls"), QUEUED, DEVICES, owners=1) as database:
            _controls(database)
            settings = _settings(redis_url, database)
            whole, first = _first_pass(settings, database)
            stored = f"with {PAUSES} pauses, {START_TIMES:,} start times and {FLOWS:,} flows stored too"
            rows.append(_within(f"{what}, {stored}", whole, 1000.0))
            rows.append(_within("the same: the first dispatch is sent", first, 200.0))
            rows.append(_within("the same in the steady state, with all of these", _steady(settings, database), 100.0))
        steady = {}
        for queued in (1_000, QUEUED):  # with few devices, so that of the thousand most are still waiting
            with _farm(url_of(f"growth_{queued}"), queued, 50, owners=1) as database:
                settings = _settings(redis_url, database)
                _first_pass(settings, database)
                steady[queued] = _steady(settings, database)
        growth = steady[QUEUED] / steady[1_000]
        what = f"a steady pass with {QUEUED:,} over one with 1,000 queued, 50 devices"
        rows.append(Row(what, f"{growth:.2f}", "<= 1.5", growth <= 1.5))
        with _farm(url_of("owners"), 10_000, 50, owners=1_000) as database:
            settings = _settings(redis_url, database)
            _first_pass(settings, database)
            rows.append(
                _within("a steady pass, 10,000 queued of 1,000 owners, 50 devices", _steady(settings, database), 300.0)
            )
    return rows


def _controls(database: Database) -> None:
    """Pauses of other keys' jobs, jobs that start tomorrow, and flows of a job on which four depend."""
    for place in range(PAUSES):
        pauses.pause(database, pauses.Scope("key", f"key-{place}"), by="bench", running="finish")
    tomorrow = time.time() + 86400
    plain = [entry for entry in DEMO.entries if entry.extends is None and entry.image != "required"]
    for _ in range(START_TIMES // 500):
        later = [new_job(plain[place % len(plain)].model_id, start_after=tomorrow) for place in range(500)]
        assert all(isinstance(one, accepting.Accepted) for one in accepting.accept(database, later))
    below = {f"shot-{place}": Node(after=("first",)) for place in range(4)}
    for _ in range(FLOWS):
        flows.accepted_flow(database, first=Node(), **below)


def _settings(redis_url: str, database: Database) -> Settings:
    return load(
        redis_url=redis_url, database_url=database.url, node="here", catalogue="demo", device_silence_seconds=3600
    )


@contextlib.contextmanager
def _farm(url: str, queued: int, devices: int, owners: int) -> Iterator[Database]:
    migrate(url)
    database = Database(url)
    store(database, ended=0, queued=queued, owners=owners)
    _devices(database, devices, max(1, devices // 10))
    yield database
    database.close()


def _first_pass(settings: Settings, database: Database) -> tuple[float, float]:
    """Seconds of a pass in which every device is idle, and until the first dispatch was sent."""
    sent: list[float] = []
    really_send = celery_sender(settings)

    def send(job: Waiting, device_key: str, reads: int) -> None:
        really_send(job, device_key, reads)
        sent.append(time.perf_counter())

    began = time.perf_counter()
    Dispatcher(settings, database, send).run_pass()
    whole = time.perf_counter() - began
    return whole, sent[0] - began


def _steady(settings: Settings, database: Database) -> float:
    """Seconds of a pass in which every device runs a job and has one ahead, median."""
    discard: Send = lambda *_: None  # noqa: E731
    dispatcher = Dispatcher(settings, database, discard)
    with database.write() as session:
        session.connection().exec_driver_sql(
            "UPDATE jobs SET status = 'running', attempt = 1, device_key = bell_device, node = 'here',"
            f" bell_device = NULL, lease_until = {time.time() + 86400}, claimed_at = {time.time()}"
            " WHERE bell_device IS NOT NULL"
        )
    dispatcher.run_pass()
    return _median(lambda: dispatcher.run_pass())


def _median(what: Callable[[], object], times: int = 7) -> float:
    seen = []
    for _ in range(times):
        began = time.perf_counter()
        what()
        seen.append(time.perf_counter() - began)
    return statistics.median(seen)


def _within(what: str, seconds: float, bound_ms: float) -> Row:
    return Row(what, f"{1000 * seconds:.1f} ms", f"<= {bound_ms:.0f} ms", 1000 * seconds <= bound_ms)


def _devices(database: Database, count: int, nodes: int) -> None:
    rng = random.Random(1)
    for index in range(count):
        model = rng.choice(_MODELS)
        node, place = f"n{index % nodes}", index // nodes
        library.device(database, on=node, index=place, kind="cpu", memory_mb=200_000)
        warm = {"model_id": model, "quantization": "none", "warm_key": f"{model}:none"}
        nodes_table.report_loaded(database, f"{node}/{place}", [warm])
    for node in range(nodes):
        library.node(database, f"n{node}")
        hold(database, *_MODELS, node=f"n{node}")
    assert replicas.ready(database)


def store(database: Database, *, ended: int, queued: int, owners: int = 100) -> None:
    """Jobs of the last 30 days straight into the tables: what ended first, then what waits."""
    if database.is_sqlite:
        path = database.url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection, connection:
            connection.execute("PRAGMA synchronous=OFF")
            marks = ",".join("?" * len(_COLUMNS.split(",")))
            connection.executemany(
                f"INSERT INTO jobs ({_COLUMNS}) VALUES ({marks})", _rows(ended, queued, owners, as_text=True)
            )
        return
    import psycopg

    with psycopg.connect(database.url.replace("+psycopg", ""), autocommit=True) as connection:
        with connection.cursor() as cursor, cursor.copy(f"COPY jobs ({_COLUMNS}) FROM STDIN") as copy:
            for row in _rows(ended, queued, owners, as_text=False):
                copy.write_row(row)
        connection.execute("VACUUM ANALYZE jobs")


def _rows(ended: int, queued: int, owners: int, *, as_text: bool) -> Iterator[tuple[Any, ...]]:
    rng = random.Random(7)
    params = {
        "generation": new_job().params,
        "download": DownloadParams(model_id="T2V-A14B", node="n0"),
        "integrity_check": IntegrityCheckParams(node="n0"),
    }
    texts = {type: json.dumps(one.model_dump(mode="json")) for type, one in params.items()}
    now = datetime.now(UTC)
    count = ended + queued
    step = timedelta(days=30) / count
    states = [JobState.SUCCEEDED] * 95 + [JobState.FAILED] * 4 + [JobState.CANCELLED]
    for place in range(count):
        at = now - step * (count - place)
        milliseconds = int(at.timestamp() * 1000)
        job_id = str(uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (0b10 << 62) | rng.getrandbits(60)))
        model = rng.choice(_MODELS)
        type, node, warm = "generation", None, f"{model}:none"
        if place < ended and place % 50 == 0:
            type, node, warm = rng.choice(("download", "integrity_check")), "n0", ""
        owner = f"owner-{rng.randrange(owners)}" if owners > 1 else None
        priority = rng.choice((1, 2, 2, 2, 3))
        status = str(rng.choice(states)) if place < ended else "queued"
        text = at.strftime("%Y-%m-%d %H:%M:%S.%f") if as_text else at.isoformat()  # as the driver writes it
        finished = text if place < ended else None
        line = line_of(owner, priority, model, warm, node, False, 1000, 1000)
        yield (
            job_id, type, status, model, warm, node, priority, owner, False, 1000, 1000, line, 1.0, texts[type], "{}",
            text, at.timestamp(), 0.0, finished, finished, 0.0, 1 if finished else 0, 0, 5, False, False,
        )  # fmt: skip
