"""The local hub with the unmodified huggingface_hub library, and requests that it must refuse."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.models.repos import checksum, make_repo
from tests.support.places import ROOT

REPO = "maker/tiny"
FILES = {
    "model_index.json": b'{"_class_name": "WanPipeline"}',
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": os.urandom(3_000_000),
}


class Mirror:
    """`python -m api.hub` on a folder."""

    def __init__(self, root: Path, *options: str, **environment: str) -> None:
        argv = [sys.executable, "-m", "api.hub", "--root", str(root), "--port", "0", *options]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment}
        )
        assert self.process.stdout is not None
        word, self.url = self.process.stdout.readline().split()
        assert word == "ready"

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mirror")
    make_repo(root, REPO, {"model_index.json": b"{}"}, revision="refs/pr/1")
    make_repo(root, REPO, FILES)
    return root


@pytest.fixture(scope="module")
def hub(root: Path) -> Iterator[Mirror]:
    mirror = Mirror(root)
    yield mirror
    assert mirror.stop() == 0


def api(hub: Mirror, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def test_the_library_downloads_a_snapshot(hub: Mirror, tmp_path: Path) -> None:
    folder = Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path, token=False))
    for path, content in FILES.items():
        assert (folder / path).read_bytes() == content
        assert (folder / path).resolve().name == checksum(path, content)
    (repo,) = scan_cache_dir(tmp_path).repos
    assert repo.repo_id == REPO
    assert repo.size_on_disk == sum(map(len, FILES.values()))


def test_the_description_of_a_model(hub: Mirror) -> None:
    info = api(hub).model_info(REPO, files_metadata=True)
    assert info.id == REPO
    files = {item.rfilename: item for item in info.siblings or []}
    assert set(files) == set(FILES)
    weights = files["vae/diffusion_pytorch_model.safetensors"]
    assert weights.lfs is not None
    assert weights.lfs.sha256 == checksum("x.safetensors", FILES["vae/diffusion_pytorch_model.safetensors"])
    assert weights.size == weights.lfs.size == 3_000_000
    assert files["vae/config.json"].lfs is None
    assert files["vae/config.json"].blob_id == checksum("x", b"{}")


@pytest.mark.parametrize("recursive", [False, True])
def test_the_tree(hub: Mirror, recursive: bool) -> None:
    found = list(api(hub).list_repo_tree(REPO, recursive=recursive, expand=recursive))
    inside = ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert [item.path for item in found] == ["model_index.json", "vae", *(inside if recursive else [])]
    assert [item.path for item in api(hub).list_repo_tree(REPO, "vae")] == inside


def test_a_tree_comes_in_pages(hub: Mirror) -> None:
    address, seen = f"{hub.url}/api/models/{REPO}/tree/main?recursive=true&limit=2", []
    while address:
        answer = httpx.get(address)
        seen += [item["path"] for item in answer.json()]
        address = answer.links.get("next", {}).get("url", "")
    assert seen == ["model_index.json", "vae", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]


def test_branches_shas_and_names_with_slashes(hub: Mirror, tmp_path: Path) -> None:
    refs = {item.name: item.target_commit for item in api(hub).list_repo_refs(REPO).branches}
    assert set(refs) == {"main", "refs/pr/1"}
    assert api(hub).model_info(REPO, revision="refs/pr/1").sha == refs["refs/pr/1"]
    assert api(hub).model_info(REPO, revision=refs["main"]).sha == refs["main"]
    place = hf_hub_download(
        REPO, "model_index.json", revision="refs/pr/1", endpoint=hub.url, cache_dir=tmp_path, token=False
    )
    assert Path(place).read_bytes() == b"{}"
    assert [item.commit_id for item in api(hub).list_repo_commits(REPO)] == [refs["main"]]


def test_paths_info(hub: Mirror) -> None:
    found = api(hub).get_paths_info(REPO, ["vae", "model_index.json", "nowhere"])
    assert [item.path for item in found] == ["vae", "model_index.json"]


def test_missing_repos_revisions_and_files(hub: Mirror, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api(hub).model_info("maker/other")
    with pytest.raises(RevisionNotFoundError):
        api(hub).model_info(REPO, revision="no-such-branch")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "nowhere.json", endpoint=hub.url, cache_dir=tmp_path, token=False)


@pytest.mark.parametrize(
    "path",
    [
        "/maker/tiny/resolve/main/..%2F..%2F..%2Frefs%2Fmain",
        "/maker/tiny/resolve/main/vae%2F..%2F..%2F..%2Frefs/main",
        "/maker/tiny/resolve/..%2F..%2Frefs/main",
        "/..%2F..%2Fetc/x/resolve/main/passwd",
        "/maker/tiny/resolve/main/%2Fetc%2Fpasswd",
        "/maker/tiny/resolve/main/",
        "/maker/tiny/resolve",
        "/api/models/",
        "/api/models/maker/tiny/tree",
        "/",
    ],
)
def test_paths_cannot_leave_a_snapshot(hub: Mirror, path: str) -> None:
    with httpx.Client() as client:
        answer = client.send(client.build_request("GET", httpx.URL(hub.url, raw_path=path.encode())))
    assert answer.status_code == 404
    assert answer.headers["X-Error-Code"] in ("RepoNotFound", "RevisionNotFound", "EntryNotFound")


def test_ranges_and_headers(hub: Mirror, root: Path) -> None:
    weights = "vae/diffusion_pytorch_model.safetensors"
    address = f"{hub.url}/{REPO}/resolve/main/{weights}"
    head = httpx.head(address)
    sha = (root / "models--maker--tiny" / "refs" / "main").read_text()
    assert head.headers["X-Repo-Commit"] == sha
    assert head.headers["ETag"] == head.headers["X-Linked-ETag"] == f'"{checksum(weights, FILES[weights])}"'
    assert head.headers["Content-Length"] == head.headers["X-Linked-Size"] == "3000000"
    part = httpx.get(address, headers={"Range": "bytes=2999990-"})
    assert (part.status_code, part.headers["Content-Range"]) == (206, "bytes 2999990-2999999/3000000")
    assert part.content == FILES[weights][-10:]
    assert httpx.get(address, headers={"Range": "bytes=3000000-"}).status_code == 416


def test_a_copy_with_its_links_resolved_and_without_refs(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--maker--flat" / "snapshots" / ("a" * 40)
    for path, content in FILES.items():
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).write_bytes(content)
    mirror = Mirror(tmp_path)
    try:
        info = api(mirror).model_info("maker/flat", files_metadata=True)
        oids = {item.rfilename: item.lfs.sha256 if item.lfs else item.blob_id for item in info.siblings or []}
        assert info.sha == "a" * 40
        assert oids == {path: checksum(path, content) for path, content in FILES.items()}
    finally:
        mirror.stop()


def test_a_token_is_required(root: Path, tmp_path: Path) -> None:
    mirror = Mirror(root, WANWORKS_MIRROR_TOKEN="open-sesame")
    try:
        with pytest.raises(GatedRepoError) as refused:
            api(mirror).model_info(REPO)
        assert refused.value.response.status_code == 401
        with pytest.raises(GatedRepoError) as refused:
            api(mirror, "wrong").model_info(REPO)
        assert refused.value.response.status_code == 403
        assert api(mirror, "open-sesame").model_info(REPO).id == REPO
        folder = snapshot_download(REPO, endpoint=mirror.url, cache_dir=tmp_path, token="open-sesame")
        assert (Path(folder) / "vae/config.json").read_bytes() == b"{}"
    finally:
        mirror.stop()


def test_a_wrong_folder_and_a_used_port_are_reported(hub: Mirror, tmp_path: Path) -> None:
    def started(*options: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "api.hub", *options]
        return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=20)

    missing = started("--root", str(tmp_path / "nowhere"))
    taken = started("--root", str(tmp_path), "--port", hub.url.rpartition(":")[2])
    assert missing.returncode == taken.returncode == 1
    assert "is not a folder" in missing.stderr
    assert "cannot listen" in taken.stderr
    assert "Traceback" not in missing.stderr + taken.stderr
