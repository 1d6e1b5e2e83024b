"""The store's settings: a directory or a bucket, never half of one, and no secret told."""

import subprocess
import sys

import pytest

from shared.errors import ConfigurationError
from shared.settings import load

BUCKET = {"WANWORKS_STORE_URL": "s3://videos/ours"}


def refused(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as error:
        load()
    return str(error.value)


def test_a_bucket_is_read_and_its_secret_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"WANWORKS_STORE_KEY_ID": "key", "WANWORKS_STORE_SECRET": "hush", "WANWORKS_STORE_PATH": ""}
    for name, value in {**BUCKET, **more}.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.store_path is None, "an image's own setting can be taken back by an empty one"
    assert (settings.store_url, settings.store_key_id) == ("s3://videos/ours", "key")
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://A", "http://videos", "s3://videos/a b", "s3://videos/../x", "s3://key:secret@videos", "videos"],
)
def test_what_is_no_bucket_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    said = refused(monkeypatch, WANWORKS_STORE_URL=url)
    assert "WANWORKS_STORE_URL" in said
    assert "secret" not in said


def test_a_directory_and_a_bucket_are_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(monkeypatch, **BUCKET, WANWORKS_STORE_PATH="/srv/store")
    assert "WANWORKS_STORE_URL" in said
    assert "WANWORKS_STORE_PATH" in said


@pytest.mark.parametrize("name", ["WANWORKS_STORE_ENDPOINT", "WANWORKS_STORE_PUBLIC_ENDPOINT"])
def test_an_endpoint_without_a_bucket_is_a_mistake(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert name in refused(monkeypatch, **{name: "https://s3.internal"})


@pytest.mark.parametrize("endpoint", ["s3.internal", "https://key:secret@s3.internal", "https://s3.internal/path"])
def test_an_endpoint_is_a_plain_address(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    said = refused(monkeypatch, **BUCKET, WANWORKS_STORE_ENDPOINT=endpoint)
    assert "WANWORKS_STORE_ENDPOINT" in said
    assert "secret" not in said


@pytest.mark.parametrize(("name", "value"), [("WANWORKS_STORE_KEY_ID", "key"), ("WANWORKS_STORE_SECRET", "hush")])
def test_half_a_credential_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    said = refused(monkeypatch, **BUCKET, **{name: value})
    assert "WANWORKS_STORE_SECRET" in said
    assert "WANWORKS_STORE_KEY_ID" in said
    assert "hush" not in said


def test_a_store_in_a_directory_loads_nothing_of_a_buckets() -> None:
    program = "import sys, api.app, scheduler.ticks; print(sorted({'s3fs', 'botocore', 'aiohttp'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
