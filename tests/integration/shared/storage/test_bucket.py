"""What only a bucket can do wrong: uploads that break, stop, come spoilt or are never finished; refusals."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.errors import Cancelled, ConfigurationError, NotFound, StoreUnavailable
from shared.settings import Settings
from shared.storage.bucket import BucketStore
from shared.storage.scratch import Scratch
from tests.conftest import free_port
from tests.support.servers.s3_server import BUCKET, KEY_ID, SECRET, Line, S3Server, in_bucket
from tests.support.stack import wait_for

LARGE = os.urandom(20_000_000)  # four parts of 6 MB


@pytest.fixture
def line(s3_server: S3Server) -> Iterator[Line]:
    line = Line(s3_server.port)
    yield line
    line.close()


@pytest.fixture
def settings(tmp_path: Path, line: Line) -> Settings:
    return in_bucket(Settings(home=tmp_path), line.url, store_part_mb=6, store_patience_seconds=20)


@pytest.fixture
def store(settings: Settings) -> BucketStore:
    return BucketStore.opened(settings, lambda: "this-installation", create=True)


def nothing() -> None:
    pass


def keep(
    store: BucketStore,
    content: bytes,
    check: Callable[[], None] = nothing,
    moved: Callable[[], None] = nothing,
    attempt: int = 1,
) -> None:
    (store.attempt_dir("job", attempt) / "video.mp4").write_bytes(content)
    store.keep("job", attempt, ["video.mp4"], check, moved)


def read(store: BucketStore, size: int, attempt: int = 1) -> bytes:
    return b"".join(store.artifact("job", attempt, "video.mp4").read(0, size))


def test_a_large_file_goes_in_parts(store: BucketStore, line: Line, tmp_path: Path) -> None:
    moves: list[int] = []
    keep(store, LARGE, moved=lambda: moves.append(line.passed))
    assert read(store, len(LARGE)) == LARGE
    assert len([ask for ask in line.asked if "partNumber=" in ask]) == 4
    assert moves, "no progress was reported"
    assert store.drop_unfinished(0.0) == 0
    assert list((tmp_path / "scratch").glob("job*")) == [], "what was sent stays on the disk"


def test_a_small_file_goes_whole(store: BucketStore, line: Line) -> None:
    keep(store, LARGE[:1_000_000])
    assert read(store, 1_000_000) == LARGE[:1_000_000]
    assert not [ask for ask in line.asked if "partNumber=" in ask]


def test_an_upload_that_breaks_off_is_sent_again(store: BucketStore, line: Line) -> None:
    line.cut_after = 8_000_000

    def mend() -> None:
        if line.cut_after is not None and line.cut_after < 0:
            line.cut_after = None

    keep(store, LARGE, check=mend)
    assert line.cut_after is None, "the line was not cut"
    assert read(store, len(LARGE)) == LARGE
    assert store.drop_unfinished(0.0) == 0


def test_a_server_that_is_killed_on_the_way_gets_it_again(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3").start()
    line = Line(server.port)
    settings = in_bucket(Settings(home=tmp_path), line.url, store_part_mb=6, store_patience_seconds=20)
    store = BucketStore.opened(settings, lambda: "this-installation", create=True)
    line.pause_seconds = 0.01
    killed_at: list[float] = []

    def kill() -> None:
        """With the first part there and others on their way."""
        if not killed_at:
            killed_at.append(time.monotonic())
            line.pause_seconds = 0.0
            server.kill()

    def restart() -> None:
        if killed_at and server.is_dead and time.monotonic() - killed_at[0] > 1:
            server.start()

    try:
        keep(store, LARGE, check=restart, moved=kill)
        assert killed_at
        assert not server.is_dead
        assert read(store, len(LARGE)) == LARGE
    finally:
        line.close()
        server.kill()


def test_bytes_that_change_on_the_way_are_refused_and_sent_again(store: BucketStore, line: Line) -> None:
    line.spoil = (b"a cat plays", b"a dog plays")

    def mend() -> None:
        if line.spoilt:
            line.spoil = None

    content = b"a cat plays the piano " * 1000
    keep(store, content, check=mend)
    assert line.spoilt
    assert read(store, len(content)) == content


def test_a_bucket_that_stays_away_is_given_up(settings: Settings, store: BucketStore, line: Line) -> None:
    impatient = BucketStore.opened(
        settings.model_copy(update={"store_patience_seconds": 1.0}), lambda: "this-installation", create=False
    )
    folder = impatient.attempt_dir("job", 1)
    (folder / "video.mp4").write_bytes(b"x")
    line.cut_after = 0
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        impatient.keep("job", 1, ["video.mp4"], nothing, nothing)
    assert time.monotonic() - began < 15
    with pytest.raises(StoreUnavailable):
        impatient.attempt_dir("job", 2)  # nothing is made that could not be sent
    line.cut_after = None
    with pytest.raises(NotFound):
        read(store, 1)


@pytest.mark.parametrize("silent", [False, True])
def test_a_cancel_stops_an_upload_soon(store: BucketStore, line: Line, silent: bool) -> None:
    stopped_at: list[float] = []

    def check() -> None:
        if line.passed > 3_000_000:
            line.hold = silent
            stopped_at.append(time.monotonic())
            raise Cancelled

    line.pause_seconds = 0.02
    with pytest.raises(Cancelled):
        keep(store, LARGE, check=check)
    assert time.monotonic() - stopped_at[0] < 5
    line.hold, line.pause_seconds = False, 0.0
    store.drop_attempt("job", 1)
    assert wait_for(lambda: store.drop_unfinished(0.0) == 0, 10)
    assert store.attempts("job") == []


def test_uploads_that_nobody_finishes_are_swept_when_they_are_old(store: BucketStore, settings: Settings) -> None:
    prefix = str(settings.store_url).partition(f"{BUCKET}/")[2]
    begin = store._files.call_s3
    begin("create_multipart_upload", Bucket=BUCKET, Key=f"{prefix}/artifacts/job/1/video.mp4")
    begin("create_multipart_upload", Bucket=BUCKET, Key="another-installation/artifacts/job/1/video.mp4")
    assert store.drop_unfinished(3600.0) == 0
    assert store.drop_unfinished(-5.0) == 1
    assert store.drop_unfinished(-5.0) == 0


def test_more_than_one_page_of_objects(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3")
    artifacts = server.folder / BUCKET / "many" / "artifacts"
    for job_id, count in (("job-1", 2), ("job-x", 1100), ("job-y", 1)):
        (artifacts / job_id / "1").mkdir(parents=True)
        for place in range(count):
            (artifacts / job_id / "1" / f"{place}.json").write_bytes(b"x")
    server.start()
    try:
        settings = in_bucket(Settings(home=tmp_path), server.url, "many")
        store = BucketStore.opened(settings, lambda: "this-installation", create=True)
        assert store.allocated_bytes("job-x") == 1100
        assert [one.job_id for one in store.orphaned_files(-5.0)] == ["job-1", "job-x", "job-y"]
        store.drop_job("job-x")
        assert store.attempts("job-x") == []
        assert [one.job_id for one in store.orphaned_files(-5.0)] == ["job-1", "job-y"]
    finally:
        server.kill()


def test_what_a_dead_process_left_on_the_disk_goes_with_the_next_attempt(tmp_path: Path) -> None:
    said = "from pathlib import Path; import sys, time; from shared.storage.scratch import Scratch\n"
    said += "(Scratch(Path(sys.argv[1])).fresh('job.1') / 'video.mp4').write_bytes(b'x'); print('there', flush=True)\n"
    said += "time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", said, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"there\n"
    here = Scratch(tmp_path)
    here.fresh("job.2")
    assert (tmp_path / "job.1" / "video.mp4").exists(), "a living process lost its files"
    other.kill()
    other.wait()
    here.fresh("job.3")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "job.2", "job.3"]


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"store_secret": "wrong-secret"}, ConfigurationError, "refuses access"),
        ({"store_key_id": "nobody"}, ConfigurationError, "refuses access"),
        ({"store_url": "s3://no-such-bucket"}, ConfigurationError, "there is no bucket"),
        ({"store_endpoint": f"http://127.0.0.1:{free_port()}"}, StoreUnavailable, "cannot be reached"),
    ],
)
def test_a_start_that_cannot_be_says_why_and_never_the_secret(
    tmp_path: Path,
    s3_server: S3Server,
    caplog: pytest.LogCaptureFixture,
    wrong: dict[str, str],
    kind: type[Exception],
    message: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = in_bucket(Settings(home=tmp_path), s3_server.url)
    settings = Settings(**{**settings.model_dump(exclude_none=True), **wrong})
    with pytest.raises(kind, match=message) as refused:
        BucketStore.opened(settings, lambda: "this-installation", create=True)
    told = f"{refused.value!r} {refused.value.__cause__!r} {caplog.text} {settings!r}"
    assert SECRET not in told
    assert "wrong-secret" not in told


@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [("SECRET", 2, "refuses access"), ("ENDPOINT", 3, "store of artifacts cannot be reached")],
)
def test_a_process_does_not_start_without_its_bucket(
    tmp_path: Path, s3_server: S3Server, wrong: str, code: int, message: str
) -> None:
    wrongly = {"SECRET": "wrong-secret", "ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    said = {"URL": f"s3://{BUCKET}/start", "ENDPOINT": s3_server.url, "KEY_ID": KEY_ID, "SECRET": SECRET}
    said[wrong] = wrongly[wrong]
    environment = {**os.environ, **{f"WANWORKS_STORE_{name}": value for name, value in said.items()}}
    argv = [sys.executable, "-m", "wanworks.cli.main", "migrate", "--home", str(tmp_path / "home")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert said["SECRET"] not in done.stdout + done.stderr


def test_two_processes_upload_at_once(settings: Settings, store: BucketStore) -> None:
    other = BucketStore.opened(settings, lambda: "this-installation", create=False)
    there = threading.Thread(target=keep, args=(other, LARGE), kwargs={"attempt": 2})
    there.start()
    keep(store, LARGE)
    there.join()
    assert read(store, len(LARGE)) == read(store, len(LARGE), 2) == LARGE
