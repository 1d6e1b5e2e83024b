"""One download in a warm process.

``python -m tests.bench.support.fetch_once ours|stock|verified URL REPO SMALL FOLDER``
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    who, url, repo, small, folder = sys.argv[1:6]
    fetch = {"ours": _ours, "stock": _stock, "verified": _verified}[who](url)
    fetch(small, Path(folder) / "warm-up")  # as in a worker that has run for a while: modules, certificates
    began = time.perf_counter()
    fetch(repo, Path(folder))
    print(time.perf_counter() - began)


def _ours(url: str) -> Callable[[str, Path], object]:
    from tests.support.models.fetching import download, plan_of

    return lambda repo, folder: download(plan_of(url, repo, folder))


def _stock(url: str) -> Callable[[str, Path], object]:
    from huggingface_hub import snapshot_download

    return lambda repo, folder: snapshot_download(repo, endpoint=url, cache_dir=folder, token=False)


def _verified(url: str) -> Callable[[str, Path], object]:
    """The stock client, followed by its own verification."""
    from huggingface_hub import HfApi

    stock, api = _stock(url), HfApi(endpoint=url, token=False)

    def fetch(repo: str, folder: Path) -> None:
        stock(repo, folder)
        found = api.verify_repo_checksums(repo, cache_dir=folder)
        assert not found.mismatches

    return fetch


if __name__ == "__main__":
    main()
