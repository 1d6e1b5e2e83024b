"""The token bucket: its arithmetic, and that a file shares it between threads and processes."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.places import ROOT
from workers.models.fetch.limiter import OwnBucket, SharedBucket, paid_at, piece_bytes

MBPS = 80.0  # 10^7 bytes a second


def test_bytes_cost_their_time() -> None:
    assert paid_at(before=100.0, now=100.0, count=5_000_000, mbps=MBPS) == pytest.approx(100.5)
    assert paid_at(before=100.5, now=100.1, count=5_000_000, mbps=MBPS) == pytest.approx(101.0)


def test_an_idle_bucket_saves_a_tenth_of_a_second_and_no_more() -> None:
    assert paid_at(before=10.0, now=100.0, count=1_000_000, mbps=MBPS) == pytest.approx(100.0)


def test_a_moment_from_before_a_restart_counts_nothing() -> None:
    assert paid_at(before=1e6, now=5.0, count=1_000_000, mbps=MBPS) == pytest.approx(5.1)


@pytest.mark.parametrize(("mbps", "piece"), [(None, 1 << 20), (1e6, 1 << 20), (80, 200_000), (0.001, 4096)])
def test_pieces_shrink_with_the_limit(mbps: float | None, piece: int) -> None:
    assert piece_bytes(mbps) == piece


def test_a_changed_rate_holds_from_the_next_piece_on() -> None:
    now = 1000.0
    bucket = OwnBucket(clock=lambda: now)
    moved = []
    for mbps in (80.0, 160.0, 24.0):
        began, count = now, 0
        while now - began < 10:
            count += 20_000
            now += bucket.take(20_000, mbps)
        moved.append(count * 8e-6 / (now - began))
    assert moved == pytest.approx([80.0, 160.0, 24.0], rel=0.02)


def test_threads_share_one_bucket(tmp_path: Path) -> None:
    bucket = SharedBucket(tmp_path / "bandwidth")
    taken = [0] * 4
    until = time.monotonic() + 1.5

    def take(place: int) -> None:
        while time.monotonic() < until:
            taken[place] += 40_000
            time.sleep(bucket.take(40_000, MBPS))

    threads = [threading.Thread(target=take, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bucket.close()
    assert 2e6 < sum(taken) / 1.5 < 1.15e7  # over so short a time the burst shows; slower is the machine's load


def test_processes_share_one_bucket(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from workers.models.fetch.limiter import SharedBucket\n"
        "bucket, taken = SharedBucket(Path(sys.argv[1])), 0; sys.stdin.readline(); until = time.monotonic() + 2\n"
        "while time.monotonic() < until:\n    taken += 40_000; time.sleep(bucket.take(40_000, 80.0))\n"
        "print(taken)"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "bandwidth")]
    running = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
    ]
    taken = 0
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        taken += int(process.communicate(timeout=20)[0])
    assert 2e6 < taken / 2 < 1.15e7
