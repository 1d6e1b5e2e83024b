"""Ids of new jobs: their form, their order, and that no two are the same."""

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

from shared.jobs import ids
from tests.support.places import ROOT

_FORKED = """
import os
from shared.jobs.ids import new_id

new_id()  # reads random bits ahead, which a child must not use too
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, new_id().encode())
    os._exit(0)
print(new_id(), os.read(read, 100).decode())
"""


def random_bits(job_id: str) -> int:
    return uuid.UUID(job_id).int & (1 << 62) - 1


def test_they_are_uuids_of_version_7_that_sort_by_creation() -> None:
    made = ids.new_ids(3000)

    assert all((one.version, one.variant) == (7, uuid.RFC_4122) for one in map(uuid.UUID, made))
    assert made == sorted(made)


def test_threads_get_different_random_bits() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [one for several in pool.map(ids.new_ids, [2000] * 8) for one in several]

    assert len({random_bits(one) for one in made}) == len(made)


def test_a_forked_process_does_not_repeat_the_bits_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKED], cwd=ROOT, capture_output=True, text=True, check=True)
    ours, childs = done.stdout.split()

    assert random_bits(ours) != random_bits(childs)
