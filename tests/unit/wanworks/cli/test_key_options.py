"""Limits of keys as options of the command line."""

import pytest

from wanworks.cli.keys import key_options
from wanworks.errors import ConfigurationError
from wanworks.states import Priority


def test_limits_are_read_and_removed() -> None:
    assert key_options.changes(
        {
            "running_jobs": "2",
            "gpu_seconds_per_month": "1e5",
            "max_priority": "low",
            "max_resolution": "1280x720",
            "queued_jobs": "none",
            "max_frames": None,
        }
    ) == {
        "running_jobs": 2,
        "gpu_seconds_per_month": 1e5,
        "priority_ceiling": Priority.LOW,
        "max_resolution": "1280x720",
        "queued_jobs": None,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("running_jobs", "0"),
        ("running_jobs", "1.5"),
        ("gpu_seconds_per_day", "nan"),
        ("max_priority", "top"),
        ("max_resolution", "720p"),
    ],
)
def test_what_is_no_limit_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--{name.replace('_', '-')}.*{text}"):
        key_options.changes({name: text})
