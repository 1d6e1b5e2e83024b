"""Downloads through network faults: a real hub in its own process, and the real client stack over HTTP."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from shared import errors
from tests.integration.workers.models.fetch.hub_model import PATH, REPO, TOTAL, WEIGHTS, _oid, assert_whole
from tests.support.models.fetching import download, plan_of
from tests.support.models.repos import checksum
from tests.support.places import ROOT
from tests.support.servers.faulty_hub import HubProcess
from workers.models.fetch.client import HubClient
from workers.models.fetch.plan import FetchPlan, Progress


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
        "from tests.support.models.fetching import download; from workers.models.fetch.client import HubClient\n"
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


def test_the_oids_are_those_of_git(plan: FetchPlan) -> None:
    index = next(file for file in plan.files if file.path == "model_index.json")
    assert (index.lfs, index.oid) == (False, checksum("model_index.json", b'{"_class_name": "WanPipeline"}'))
