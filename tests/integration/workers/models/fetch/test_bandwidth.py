"""Downloads keep to the limit of their node."""

import time
from pathlib import Path

import pytest

from tests.integration.workers.models.fetch.hub_model import REPO
from tests.support.models.fetching import FetchProcess, download, plan_of
from tests.support.models.repos import make_repo
from tests.support.servers.faulty_hub import HubProcess
from workers.models.fetch.partials import partials
from workers.models.fetch.plan import Limits, Progress


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
