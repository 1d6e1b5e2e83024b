"""Downloads that are stopped, killed or out of disk go on without fetching anything twice."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared import errors
from tests.integration.workers.models.fetch.hub_model import (
    CHUNK,
    PATH,
    REPO,
    SIZES,
    TOTAL,
    WEIGHTS,
    Stop,
    _after_bytes,
    _oid,
    assert_whole,
)
from tests.support.models.fetching import FetchProcess, download, plan_of
from tests.support.models.repos import make_repo
from tests.support.servers.faulty_hub import HubProcess
from tests.support.stack import wait_for
from workers.models.fetch.client import HubClient
from workers.models.fetch.partials import Needs, delete_orphans, owners, partials
from workers.models.fetch.plan import FetchPlan, Limits, Progress


def test_the_pinned_commit_is_served_after_the_branch_has_moved(tmp_path: Path) -> None:
    served = tmp_path / "served"
    make_repo(served, REPO, SIZES)
    hub = HubProcess(served).start()
    try:
        plan = plan_of(hub.url, REPO, tmp_path / "models")
        hub.fault({"kind": "stall", "after": 1_000_000, "path": PATH, "times": 99})
        with pytest.raises(Stop):
            download(plan, check=_after_bytes(plan, 500_000))
        make_repo(served, REPO, {**SIZES, WEIGHTS: 6_000_000})
        hub.fault()
        download(plan)
        assert_whole(plan, served)
        assert HubClient(hub.url).resolve(REPO) != plan.sha
    finally:
        hub.kill()


def test_a_hub_that_is_killed_and_comes_back(tmp_path: Path, served: Path) -> None:
    hub = HubProcess(served).start()
    plan = plan_of(hub.url, REPO, tmp_path / "models")
    hub.fault({"kind": "slow", "rate": 2_000_000, "path": PATH})
    reports: list[Progress] = []
    thread = threading.Thread(target=lambda: download(plan, report=reports.append))
    thread.start()
    wait_for(lambda: reports and reports[-1].bytes_done > 3_000_000)
    hub.kill()
    kept = reports[-1].bytes_done
    time.sleep(3)
    hub.start()
    thread.join(30)
    try:
        assert_whole(plan, served)
        assert hub.served() <= TOTAL - kept
    finally:
        hub.kill()


def test_a_hub_that_stays_away_ends_the_download(hub: HubProcess, plan: FetchPlan) -> None:
    gone = replace(plan, endpoint="http://127.0.0.1:9", patience_seconds=1.5)
    with pytest.raises(errors.HubUnavailable, match="cannot be reached"):
        download(gone)
    with pytest.raises(errors.HubUnavailable):
        HubClient("http://127.0.0.1:9", patience_seconds=1).resolve(REPO)
    hub.fault({"kind": "status", "status": 503, "times": 99})
    with pytest.raises(errors.HubUnavailable, match="503"):
        download(replace(plan, patience_seconds=1.5))


@pytest.mark.parametrize("kind", ["silent", "stall", "slow"])
def test_a_stop_takes_effect_within_a_second(hub: HubProcess, plan: FetchPlan, kind: str) -> None:
    hub.fault({"kind": kind, "after": 200_000, "rate": 20_000, "path": PATH, "times": 9})
    asked: list[float] = []

    def check() -> None:
        if time.monotonic() - began > 1:
            asked.append(time.monotonic())
            raise Stop

    began = time.monotonic()
    with pytest.raises(Stop):
        download(replace(plan, quiet_seconds=60), check=check)
    assert time.monotonic() - asked[0] < 1
    hub.fault()
    began = time.monotonic()
    download(plan)  # nothing holds the file any more
    assert time.monotonic() - began < 5


def test_listing_files_of_a_silent_hub_can_be_stopped(hub: HubProcess) -> None:
    hub.fault({"kind": "silent", "path": "/api/*"})
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > 0.5:
            raise Stop

    with pytest.raises(Stop):
        HubClient(hub.url).resolve(REPO, check=check)
    assert time.monotonic() - began < 1.5


def test_pause_and_resume_fetch_nothing_twice(hub: HubProcess, plan: FetchPlan, served: Path) -> None:
    for _ in range(2):
        have = sum(partial.bytes for partial in partials(plan.models_dir))
        with pytest.raises(Stop):
            download(plan, limit=lambda: Limits(download_mbps=40), check=_after_bytes(plan, have + 2_000_000))
    assert_goes_on(hub, plan, served, stops=2)


def test_killed_and_resumed_fetches_nothing_twice(hub: HubProcess, plan: FetchPlan, served: Path) -> None:
    process = FetchProcess(hub.url, REPO, plan.models_dir, mbps=40)
    while process.progress()["bytes_done"] < 3_000_000:
        pass
    process.kill()
    assert_goes_on(hub, plan, served, stops=1)


def assert_goes_on(hub: HubProcess, plan: FetchPlan, served: Path, stops: int) -> None:
    """Existing bytes are not requested again; the rest is, from the next byte on."""
    size = {file.oid: file.size for file in plan.files}
    kept = {item.oid: item.bytes for item in partials(plan.models_dir)}
    assert sum(kept.values()) > 0
    before = len(hub.requests())
    download(plan)
    assert_whole(plan, served)
    asked = sorted(item["range"] for item in hub.requests()[before:] if item["range"])
    assert asked == sorted(f"bytes={count}-" for oid, count in kept.items() if 0 < count < size[oid])
    under_way = hub.served() - TOTAL
    assert under_way <= stops * 2 * CHUNK, f"{under_way} bytes were under way and lost"


def test_a_spoilt_beginning_is_noticed(hub: HubProcess, plan: FetchPlan, served: Path) -> None:
    with pytest.raises(Stop):
        download(plan, limit=lambda: Limits(download_mbps=40), check=_after_bytes(plan, 3_000_000))
    partial = next(item for item in partials(plan.models_dir) if item.oid == _oid(plan, WEIGHTS))
    partial.path.write_bytes(b"\0" * partial.bytes)
    result = download(plan)
    assert_whole(plan, served)
    assert result.refetched == (WEIGHTS,)


def test_two_downloads_of_one_model_fetch_it_once(hub: HubProcess, plan: FetchPlan, served: Path) -> None:
    other = FetchProcess(hub.url, REPO, plan.models_dir, mbps=40)
    other.progress()
    download(plan)
    assert other.process.wait(20) == 0
    other.kill()
    assert_whole(plan, served)
    assert hub.served() == TOTAL


def test_what_a_cleanup_takes_meanwhile_is_fetched_again(plan: FetchPlan, served: Path) -> None:
    download(plan)
    blobs = plan.models_dir / f"models--{plan.repo.replace('/', '--')}" / "blobs"
    small, large = sorted(plan.files, key=lambda file: file.size)[:: len(plan.files) - 1]
    (blobs / large.oid).unlink()

    def clean_up(progress: Progress) -> None:
        if progress.bytes_done > 0:
            (blobs / small.oid).unlink(missing_ok=True)

    taken = []
    download(plan, report=lambda progress: None if taken else taken.append(clean_up(progress)))
    assert_whole(plan, served)


def test_disk_space_is_checked_before_the_first_byte(hub: HubProcess, plan: FetchPlan) -> None:
    free = shutil.disk_usage(plan.models_dir.parent).free
    with pytest.raises(errors.StoreFull, match="MB"):
        download(replace(plan, min_free_bytes=free - 4_000_000))
    assert hub.requests() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_keeps_the_bytes(hub: HubProcess, plan: FetchPlan, served: Path, small_disk: Path) -> None:
    plan = replace(plan, models_dir=small_disk)
    ballast = small_disk / "ballast"

    def fill(progress: Progress) -> None:
        if progress.bytes_done > 1_000_000 and not ballast.exists():
            ballast.write_bytes(b"\0" * 7_000_000)

    with pytest.raises(errors.StoreFull):
        download(plan, report=fill, limit=lambda: Limits(download_mbps=24))
    kept = sum(partial.bytes for partial in partials(small_disk))
    assert kept > 500_000
    ballast.unlink()
    result = download(plan)
    assert result.bytes_fetched < TOTAL - 500_000
    assert_whole(plan, served)


def test_partials_belong_to_those_who_need_them(hub: HubProcess, plan: FetchPlan) -> None:
    with pytest.raises(Stop):
        download(plan, limit=lambda: Limits(download_mbps=40), check=_after_bytes(plan, 2_000_000))
    first, *others = sorted(partials(plan.models_dir), key=lambda item: -item.bytes)
    orphaned_files = first.path.with_name(f"{first.oid}.1a2b3c4d.incomplete")
    orphaned_files.write_bytes(b"left by the library")
    needs = [Needs("job-1", REPO, frozenset({first.oid})), Needs("job-2", "maker/another", None)]
    found = owners(partials(plan.models_dir), needs)
    assert {item.path: of for item, of in found.items()} == {
        first.path: ("job-1",),
        orphaned_files: (),
        **{item.path: () for item in others},
    }
    assert delete_orphans(plan.models_dir, needs, "maker/another") == 0
    freed = delete_orphans(plan.models_dir, needs)
    assert freed == len(b"left by the library") + sum(item.bytes for item in others)
    assert [item.path for item in partials(plan.models_dir)] == [first.path]
