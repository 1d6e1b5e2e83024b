"""A download for tests: here, or in a process that can be killed (``python -m tests.support.models.fetching JSON``)."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.places import ROOT
from workers.models.fetch.client import HubClient, nothing
from workers.models.fetch.fetcher import fetch
from workers.models.fetch.plan import FetchPlan, FetchResult, Limits, Progress


def plan_of(url: str, repo: str, models: Path, token: str | None = None, **others: Any) -> FetchPlan:
    """Return the plan for the repo's `main`, as the hub lists it now."""
    hub = HubClient(url, token, patience_seconds=30)
    sha = hub.resolve(repo)
    files = tuple(hub.list_files(repo, sha))
    usual = {"quiet_seconds": 2.0, "patience_seconds": 30.0}
    return FetchPlan(repo, "main", sha, files, models, url, token, **{**usual, **others})


def download(
    plan: FetchPlan,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
    check: Callable[[], None] = nothing,
    limit: Callable[[], Limits] = Limits,
) -> FetchResult:
    return fetch(plan, report=report, check=check, limit=limit)


class FetchProcess:
    """A download in its own process; `progress` waits for its next report."""

    def __init__(self, url: str, repo: str, models: Path, mbps: float | None = None, node_file: Path | None = None):
        asked = {"url": url, "repo": repo, "models": str(models), "mbps": mbps}
        asked["node_file"] = str(node_file) if node_file else None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.models.fetching", json.dumps(asked)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def progress(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the download has ended"
        content: dict[str, Any] = json.loads(line)
        return content

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def main() -> None:
    asked = json.loads(sys.argv[1])
    node_file = Path(asked["node_file"]) if asked["node_file"] else None
    plan = plan_of(asked["url"], asked["repo"], Path(asked["models"]), bandwidth_file=node_file)
    limits = Limits(node_mbps=asked["mbps"]) if node_file else Limits(download_mbps=asked["mbps"])
    download(
        plan, limit=lambda: limits, report=lambda progress: print(json.dumps(dataclasses.asdict(progress)), flush=True)
    )


if __name__ == "__main__":
    main()
