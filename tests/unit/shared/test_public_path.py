"""The public path: how it may be written, and where it stands."""

import pytest

from shared.errors import ConfigurationError
from shared.public_path import with_public_path
from shared.settings import load
from wanworks.net.paths import within


@pytest.mark.parametrize(
    ("written", "read"), [("", ""), ("/", ""), ("/wan", "/wan"), ("/wan/", "/wan"), ("/a/b-1/", "/a/b-1")]
)
def test_it_is_read_however_it_ends(written: str, read: str) -> None:
    assert load(public_path=written).public_path == read


@pytest.mark.parametrize(
    "written", ["wan", "/wan//x", "/w an", "/../x", "https://host/wan", "/wan?x", "/api", "/v1/x", "/docs/"]
)
def test_what_cannot_be_one_is_refused(written: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^WANWORKS_PUBLIC_PATH: .*such as /wan"):
        load(public_path=written)


def test_paths_within_it() -> None:
    assert within("/wan/api", "/wan") == "/api"
    assert within("/wan", "/wan") == "/"
    assert within("/wander", "/wan") is None
    assert within("/api", "") == "/api"


def test_addresses_in_a_webhook_s_message() -> None:
    data = {"url": "/api/v1/jobs/x", "artifacts": [{"url": "/api/v1/a", "name": "/b"}], "metadata": {"note": "/c"}}
    assert with_public_path(data, "/wan") == {
        "url": "/wan/api/v1/jobs/x", "artifacts": [{"url": "/wan/api/v1/a", "name": "/b"}], "metadata": {"note": "/c"},
    }  # fmt: skip
    assert with_public_path(data, "") == data
