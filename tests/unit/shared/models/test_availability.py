"""The nine availability words, from what files and downloads say."""

import pytest

from shared.models import availability
from shared.models.availability import BEST_FIRST
from shared.states import JobState, ReplicaState

J, R = JobState, ReplicaState


@pytest.mark.parametrize(
    ("files", "download", "word"),
    [
        (None, None, R.UNKNOWN),
        (R.UNKNOWN, None, R.UNKNOWN),
        (R.AVAILABLE, None, R.AVAILABLE),
        (R.MISSING, None, R.MISSING),
        (R.CORRUPTED, None, R.CORRUPTED),
        (R.REMOVING, None, R.MISSING),
        (None, J.RUNNING, R.DOWNLOADING),
        (R.MISSING, J.RUNNING, R.DOWNLOADING),
        (R.CORRUPTED, J.RUNNING, R.DOWNLOADING),
        (R.AVAILABLE, J.RUNNING, R.UPDATING),
        (R.MISSING, J.QUEUED, R.QUEUED),
        (None, J.QUEUED, R.QUEUED),
        (R.AVAILABLE, J.QUEUED, R.AVAILABLE),
        (R.MISSING, J.PAUSED, R.PAUSED),
        (R.AVAILABLE, J.PAUSED, R.AVAILABLE),
        (R.MISSING, J.FAILED, R.FAILED),
        (None, J.FAILED, R.FAILED),
        (R.AVAILABLE, J.FAILED, R.AVAILABLE),
        (R.CORRUPTED, J.FAILED, R.CORRUPTED),
        (R.MISSING, J.CANCELLED, R.MISSING),
        (R.MISSING, J.SUCCEEDED, R.MISSING),
    ],
)
def test_a_replicas_word(files: ReplicaState | None, download: JobState | None, word: ReplicaState) -> None:
    assert availability.of_replica(files, download) == word
    assert availability.of_replica(files, download, online=False) == R.UNKNOWN


def test_every_pair_has_a_word_that_clients_know() -> None:
    for files in (None, *R):
        for download in (None, *J):
            assert availability.of_replica(files, download) in BEST_FIRST


def test_a_controlled_download_is_reported_as_such() -> None:
    assert availability.of_download(J.PAUSED, R.AVAILABLE) == R.PAUSED
    assert availability.of_download(J.QUEUED, R.AVAILABLE) == R.QUEUED
    assert availability.of_download(J.RUNNING, R.AVAILABLE) == R.UPDATING
    assert availability.of_download(J.RUNNING, R.MISSING) == R.DOWNLOADING
    assert availability.of_download(J.CANCELLED, R.MISSING) == R.MISSING


def test_the_best_replica_speaks() -> None:
    assert availability.best([]) == R.UNKNOWN
    for place, state in enumerate(BEST_FIRST):
        assert availability.best(reversed(BEST_FIRST[place:])) == state
