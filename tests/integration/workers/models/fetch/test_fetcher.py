"""Downloads through network faults: a real hub in its own process, and the real client stack over HTTP."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import scan_cache_dir, snapshot_download

from shared import errors
from tests.support.fetching import FetchProcess, download, plan_of
from tests.support.places import ROOT
from tests.support.repos import checksum, make_repo
from tests.support.servers.faulty_hub import HubProcess
from tests.support.stack import wait_for
from workers.models.fetch.client import HubClient
from workers.models.fetch.partials import Needs, delete_orphans, owners, partials
from workers.models.fetch.plan import FetchPlan, Limits, Progress

REPO = "maker/model"
WEIGHTS = "transformer/model-1.safetensors"
SIZES: dict[str, bytes | int] = {
    "model_index.json": b'{"_class_name": "WanPipeline"}',
    "transformer/config.json": b"{}",
    WEIGHTS: 6_000_000,
    "transformer/model-2.safetensors": 2_000_000,
    "tokenizer/spiece.model": 50_000,
    "empty.txt": b"",
    "pickled.bin": b"never fetched",
}
# What may be under way to a client under a limit of 40 Mbps: its window, and what the hub holds unsent for it.
CHUNK = 2 << 20  # of one file: what the client's kernel and its buffer hold, and what the hub has in hand
TOTAL = 8_050_000 + 30 + 2
PATH = f"*/{WEIGHTS}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    make_repo(root, REPO, SIZES)
    return root


@pytest.fixture(scope="module")
def _hub_of_the_module(served: Path) -> Iterator[HubProcess]:
    hub = HubProcess(served).start()
    yield hub
    hub.kill()


@pytest.fixture
def hub(_hub_of_the_module: HubProcess) -> HubProcess:
    _hub_of_the_module.fault()
    _hub_of_the_module.forget()
    return _hub_of_the_module


@pytest.fixture
def plan(hub: HubProcess, tmp_path: Path) -> FetchPlan:
    return plan_of(hub.url, REPO, tmp_path / "models")


def assert_whole(plan: FetchPlan, served: Path) -> None:
    """Every file equals the hub's, in the library's layout, without leftovers."""
    folder = plan.models_dir / "models--maker--model"
    origin = served / "models--maker--model" / "snapshots" / plan.sha
    for file in plan.files:
        link = folder / "snapshots" / plan.sha / file.path
        assert link.read_bytes() == (origin / file.path).read_bytes(), file.path
        assert not os.path.isabs(os.readlink(link))
        assert link.resolve().name == file.oid
    assert (folder / "refs" / "main").read_text() == plan.sha
    assert partials(plan.models_dir) == []
    (repo,) = scan_cache_dir(plan.models_dir).repos
    assert {file.file_name for revision in repo.revisions for file in revision.files} == {
        Path(file.path).name for file in plan.files
    }


def _oid(plan: FetchPlan, path: str) -> str:
    return next(file.oid for file in plan.files if file.path == path)


class Stop(Exception):
    """Raised by a test's check."""


def test_a_model_is_laid_out_as_the_library_does_it(hub: HubProcess, plan: FetchPlan, served: Path) -> None:
    reports: list[Progress] = []
    result = download(plan, report=reports.append)
    assert_whole(plan, served)
    assert "pickled.bin" not in {file.path for file in plan.files}
    assert (result.bytes_total, result.bytes_fetched, hub.served()) == (TOTAL, TOTAL, TOTAL)
    assert (reports[-1].bytes_done, reports[-1].bytes_total) == (TOTAL, TOTAL)
    assert {file.path: file.done for file in reports[-1].files} == {file.path: file.size for file in plan.files}
    offline = snapshot_download(REPO, cache_dir=plan.models_dir, local_files_only=True)
    assert Path(offline) == result.snapshot


def test_what_is_here_is_not_fetched_again_but_what_is_suspect_is(
    hub: HubProcess, plan: FetchPlan, served: Path
) -> None:
    download(plan)
    hub.forget()
    assert download(plan).bytes_fetched == hub.served() == 0
    oid = _oid(plan, WEIGHTS)
    blob = plan.models_dir / "models--maker--model" / "blobs" / oid
    content = bytearray(blob.read_bytes())
    content[5] ^= 1
    blob.write_bytes(content)
    assert download(replace(plan, suspect=frozenset({oid}))).bytes_fetched == hub.served() == 6_000_000
    assert_whole(plan, served)


CURABLE: dict[str, list[dict[str, Any]]] = {
    "reset": [{"kind": "reset", "after": 1_000_000, "times": 3}],
    "cut": [{"kind": "truncate", "after": 1_000_000, "times": 3}],
    "503": [{"kind": "status", "status": 503, "times": 3}],
    "500": [{"kind": "status", "status": 500}],
    "silent": [{"kind": "silent"}],
    "stalled": [{"kind": "stall", "after": 1_000_000}],
    "a short answer": [{"kind": "short", "after": 700_000, "times": 2}],
    "a redirect": [{"kind": "cdn", "times": 9}],
    "an expired redirect": [{"kind": "cdn", "expired": True}, {"kind": "cdn"}],
}


@pytest.mark.parametrize("faults", CURABLE.values(), ids=CURABLE.keys())
def test_it_comes_whole_through(hub: HubProcess, plan: FetchPlan, served: Path, faults: list[dict[str, Any]]) -> None:
    hub.fault(*({"path": PATH, **fault} for fault in faults))
    result = download(plan)
    assert_whole(plan, served)
    assert result.refetched == ()
    lost = hub.served() - TOTAL
    assert 0 <= lost <= 1 << 20, f"{lost} bytes were sent twice"


def test_a_range_that_is_ignored_spoils_nothing(hub: HubProcess, plan: FetchPlan, served: Path) -> None:
    hub.fault(
        {"kind": "reset", "after": 1_000_000, "path": PATH},
        {"kind": "ignore_range", "path": PATH},
    )
    result = download(plan)
    assert_whole(plan, served)
    assert result.refetched == ()
    assert [item["status"] for item in hub.requests(PATH)] == [200, 200]


def test_429_is_respected(hub: HubProcess, plan: FetchPlan, served: Path) -> None:
    hub.fault({"kind": "status", "status": 429, "retry_after": 2})
    began = time.monotonic()
    download(plan)
    assert time.monotonic() - began >= 2
    assert_whole(plan, served)


def test_a_flipped_bit_is_noticed_and_that_file_fetched_once_more(
    hub: HubProcess, plan: FetchPlan, served: Path
) -> None:
    hub.fault({"kind": "flip", "at": 3_000_000, "path": PATH})
    result = download(plan)
    assert_whole(plan, served)
    assert result.refetched == (WEIGHTS,)
    assert hub.served() == TOTAL + 6_000_000


def test_a_file_that_is_wrong_twice_fails(hub: HubProcess, plan: FetchPlan) -> None:
    hub.fault({"kind": "flip", "at": 3_000_000, "path": PATH, "times": 2})
    with pytest.raises(errors.ChecksumMismatch, match=r"model-1\.safetensors"):
        download(plan)
    assert not (plan.models_dir / "models--maker--model" / "refs" / "main").exists()
    download(plan)


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


def _after_bytes(plan: FetchPlan, count: int) -> Any:
    def check() -> None:
        if sum(partial.bytes for partial in partials(plan.models_dir)) > count:
            raise Stop

    return check


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


REFUSED = [
    ({"status": 401}, None, errors.HubAuthRequired),
    ({"status": 401, "code": "RepoNotFound"}, "token-value", errors.HubAuthRequired),
    ({"status": 401, "code": "GatedRepo"}, None, errors.HubAuthRequired),
    ({"status": 403, "code": "GatedRepo"}, "token-value", errors.HubGated),
    ({"status": 404, "code": "RepoNotFound"}, "token-value", errors.RepoNotFound),
    ({"status": 404, "code": "RevisionNotFound"}, None, errors.RevisionNotFound),
    ({"status": 404, "code": "EntryNotFound"}, None, errors.FileNotOnHub),
    ({"status": 400}, None, errors.HubRefused),
]


@pytest.mark.parametrize(("answer", "token", "expected"), REFUSED)
def test_a_refusal_is_said_at_once_and_without_secrets(
    hub: HubProcess, plan: FetchPlan, answer: dict[str, Any], token: str | None, expected: type[errors.HubRefused]
) -> None:
    fault = {"kind": "status", "times": 9, **answer}
    hub.fault({**fault, "path": PATH})
    with pytest.raises(expected) as from_a_file:
        download(replace(plan, token=token))
    hub.fault({**fault, "path": "/api/*"})
    with pytest.raises(expected) as from_the_list:
        HubClient(hub.url, token).list_files(REPO, plan.sha)
    for raised in (from_a_file, from_the_list):
        assert type(raised.value) is expected
        assert "token-value" not in str(raised.value) + repr(raised.value.__cause__) + repr(plan)


def test_the_token_opens_a_private_hub_and_does_not_follow_a_redirect(served: Path, tmp_path: Path) -> None:
    hub = HubProcess(served, token="open-sesame").start()
    try:
        with pytest.raises(errors.HubAuthRequired):
            HubClient(hub.url).resolve(REPO)
        with pytest.raises(errors.HubGated):
            HubClient(hub.url, "wrong").resolve(REPO)
        plan = plan_of(hub.url, REPO, tmp_path / "models", "open-sesame", patience_seconds=1.0)
        assert "open-sesame" not in repr(plan)
        hub.fault({"kind": "cdn", "path": PATH, "times": 99})
        with pytest.raises(errors.HubUnavailable):  # this hub's far end asks for the token, too
            download(plan)
        far = hub.requests("/cdn/good/*")
        assert far
        assert not any(item["authorized"] for item in far)
        hub.fault()
        download(plan)
        assert_whole(plan, served)
    finally:
        hub.kill()


@pytest.mark.parametrize("repo", ["maker/other", "no such/repo/name", "../../etc"])
def test_a_repo_that_is_not_there(hub: HubProcess, repo: str) -> None:
    with pytest.raises(errors.RepoNotFound):
        HubClient(hub.url).resolve(repo)


def test_offline_mode_and_a_wrong_address_are_said_at_once(hub: HubProcess, plan: FetchPlan) -> None:
    code = (
        "import sys; from pathlib import Path; from shared.errors import HubUnavailable\n"
        "from tests.support.fetching import download; from workers.models.fetch.client import HubClient\n"
        "from workers.models.fetch.plan import FetchPlan, RemoteFile\n"
        "file = RemoteFile('a.json', 2, 'a' * 40, False)\n"
        "plan = FetchPlan('a/b', 'main', 'a' * 40, (file,), Path(sys.argv[2]), sys.argv[1])\n"
        "for ask in (lambda: HubClient(sys.argv[1]).resolve('a/b'), lambda: download(plan)):\n"
        "    try: ask()\n"
        "    except HubUnavailable as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, hub.url, str(plan.models_dir)],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert said.stdout.count("HF_HUB_OFFLINE is set") == 2, said.stderr
    with pytest.raises(errors.HubRefused, match="address"):
        HubClient("http://hub:no-port").resolve(REPO)


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


def _measured(reports: list[Progress], moments: list[float], since: float, until: float) -> float:
    """Mbps between two moments."""
    inside = [(at, item.bytes_done) for at, item in zip(moments, reports, strict=True) if since <= at <= until]
    (first, before), (last, after) = inside[0], inside[-1]
    return (after - before) * 8e-6 / (last - first)


@pytest.mark.slow
def test_bandwidth_holds_while_it_is_changed(tmp_path: Path) -> None:
    served = tmp_path / "served"
    make_repo(served, REPO, {f"model-{place}.safetensors": 75_000_000 for place in range(4)})
    hub = HubProcess(served).start()
    reports: list[Progress] = []
    moments: list[float] = []
    began = time.monotonic()
    steps = [(0.0, 80.0), (8.0, 160.0), (16.0, 24.0), (24.0, None)]

    def limit() -> Limits:
        passed = time.monotonic() - began
        return Limits(download_mbps=[mbps for since, mbps in steps if since <= passed][-1])

    def report(progress: Progress) -> None:
        reports.append(progress)
        moments.append(time.monotonic() - began)

    try:
        plan = plan_of(hub.url, REPO, tmp_path / "models")
        began = time.monotonic()
        download(plan, report=report, limit=limit)
    finally:
        hub.kill()
    rates = [_measured(reports, moments, since + 1, since + 8) for since, mbps in steps if mbps]
    print("measured Mbps:", [round(rate, 1) for rate in rates])
    assert rates == pytest.approx([80.0, 160.0, 24.0], rel=0.1)


def test_processes_share_the_limit_of_their_node(tmp_path: Path) -> None:
    served = tmp_path / "served"
    for name in ("one", "two"):
        make_repo(served, f"maker/{name}", {f"model-{place}.safetensors": 10_000_000 for place in range(2)})
    hub = HubProcess(served).start()
    try:
        node_file = tmp_path / "bandwidth"
        running = [FetchProcess(hub.url, f"maker/{name}", tmp_path / name, 80, node_file) for name in ("one", "two")]
        for process in running:
            process.progress()
        time.sleep(0.5)

        def here() -> int:
            return sum(item.bytes for name in ("one", "two") for item in partials(tmp_path / name))

        began, before = time.monotonic(), here()
        time.sleep(2.5)
        rate = (here() - before) * 8e-6 / (time.monotonic() - began)
        for process in running:
            process.kill()
    finally:
        hub.kill()
    assert 20.0 < rate < 88.0  # a ceiling for both together; how near they come to it is the machine's load


def test_the_oids_are_those_of_git(plan: FetchPlan) -> None:
    index = next(file for file in plan.files if file.path == "model_index.json")
    assert (index.lfs, index.oid) == (False, checksum("model_index.json", b'{"_class_name": "WanPipeline"}'))
