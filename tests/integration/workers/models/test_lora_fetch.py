"""LoRAs are fetched from a URL or the hub into the library, with resume, through the guard of outgoing requests."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from shared.catalogue.job_types import LORA_FETCH, LoraFetchParams
from shared.database.engine import Database
from shared.database.tables import Job
from shared.errors import BadInput, Cancelled, CannotFetch
from shared.jobs import accepting
from shared.jobs.accepting import Accepted, NewJob
from shared.messaging.progress import RestingRedis
from shared.models.loras import library
from shared.net import saving
from shared.settings import Settings
from shared.states import Phase, Priority
from shared.storage.store import open_store
from tests.unit.shared.models.loras.test_header import Q, content
from workers.models.lora_fetch import LoraFetchHandler

FILE = content({f"{Q}.lora_A.weight": (64, 5120), f"{Q}.lora_B.weight": (5120, 64)})
SHA256 = hashlib.sha256(FILE).hexdigest()


@dataclass
class Site:
    """A server of one file. `breaks`: how many answers end in the middle."""

    url: str = ""
    breaks: int = 0
    status: int = 200
    etag: str = '"one"'
    moved_to: str = ""  # an address to which the first answer redirects
    seen: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.seen.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
            if site.moved_to:
                self.send_response(302)
                self.send_header("Location", site.moved_to)
                self.send_header("Content-Length", "0")
                self.end_headers()
                site.moved_to = ""
                return
            begin = 0
            if self.headers.get("If-Range") == site.etag and (given := self.headers.get("Range")):
                begin = int(given.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if begin else site.status)
            self.send_header("Content-Length", str(len(FILE) - begin))
            self.send_header("ETag", site.etag)
            self.end_headers()
            if site.breaks:
                site.breaks -= 1
                self.wfile.write(FILE[begin : begin + (len(FILE) - begin) // 2])
                self.close_connection = True
            else:
                self.wfile.write(FILE[begin:])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


class Beat:
    """A heartbeat that notes what it was told."""

    def __init__(self) -> None:
        self.percent: list[float] = []
        self.cancelled = False

    def moved(self, phase: Phase, percent: float) -> None:
        self.percent.append(percent)

    def check(self) -> None:
        if self.cancelled:
            raise Cancelled()


@pytest.fixture
def run(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(saving, "_PAUSE_SECONDS", 0.01)

    def run(beat: Beat | None = None, chosen: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
        here = settings.model_copy(update={"outbound_allow": "127.0.0.1", **(chosen or {})})
        store = open_store(here, lambda: "this-installation", create=True)
        handler = LoraFetchHandler(here, database, store, RestingRedis(here.redis))
        job = stored(database, **params)
        try:
            return handler.run(job, beat or Beat())  # type: ignore[arg-type]
        finally:
            handler.after(job)
            assert list((here.home / "uploads").glob("*")) == []

    return run


def stored(database: Database, **params: Any) -> Job:
    new = NewJob(LORA_FETCH, LoraFetchParams(**{"node": "here", "name": "grain", **params}), Priority.NORMAL)
    (outcome,) = accepting.accept(database, [new])
    assert isinstance(outcome, Accepted)
    return outcome.job


def test_from_a_url(run: Any, site: Site, database: Database, settings: Settings) -> None:
    beat = Beat()
    result = run(beat, url=f"{site.url}/grain.safetensors", description="old film")
    (row,) = library.visible(database, None)
    assert (row.id, row.description, result["sha256"]) == (result["lora_id"], "old film", SHA256)
    assert row.files[0] | {"base": "14B", "rank": 64, "source": "url"} == row.files[0]
    assert beat.percent[-1] == 100.0
    store = open_store(settings, lambda: "this-installation", create=False)
    assert store.lora_file(SHA256, Path("/nowhere")).read_bytes() == FILE


def test_a_transfer_that_breaks_off_goes_on_where_it_was(run: Any, site: Site) -> None:
    site.breaks = 3
    assert run(url=site.url)["sha256"] == SHA256
    begins = [int(one.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-")) for one in site.seen]
    assert begins == sorted(begins)
    assert begins[-1] > len(FILE) // 2


def test_one_whose_content_has_changed_starts_again(run: Any, site: Site) -> None:
    site.breaks, site.etag = 1, 'W/"weak"'
    assert run(url=site.url)["sha256"] == SHA256
    assert ["range" in one for one in site.seen] == [False, False]


def test_one_that_breaks_again_and_again_is_given_up(run: Any, site: Site) -> None:
    site.status = 503
    with pytest.raises(CannotFetch, match="status 503"):
        run(url=site.url)
    assert len(site.seen) == 5


@pytest.mark.parametrize(
    ("chosen", "status", "words"),
    [
        ({"lora_max_mb": 1}, 404, "status 404"),
        ({"outbound_allow": ""}, 200, "is not a public address"),
    ],
)
def test_what_will_never_come_fails_at_once(
    run: Any, site: Site, chosen: dict[str, Any], status: int, words: str
) -> None:
    site.status = status
    with pytest.raises(BadInput, match=words):
        run(chosen=chosen, url=site.url)
    assert len(site.seen) <= 1


def test_one_that_is_too_large(run: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="larger than 1 MB"):
        run(chosen={"lora_max_mb": 1}, url=site.url)


def test_from_the_hub_with_the_token_of_an_administrator_alone(run: Any, site: Site) -> None:
    from pydantic import SecretStr

    hub = {"hub_url": site.url, "hub_token": SecretStr("hush"), "outbound_allow": ""}
    asked = {"repo": "me/film", "file": "high/grain.safetensors", "expert": "high"}
    run(chosen=hub, **asked)
    run(chosen=hub, **asked, with_token=True)
    assert [one["path"] for one in site.seen] == ["/me/film/resolve/main/high/grain.safetensors"] * 2
    assert [one.get("authorization") for one in site.seen] == [None, "Bearer hush"]


def test_the_token_is_not_sent_on_to_another_host(run: Any, site: Site) -> None:
    from pydantic import SecretStr

    site.moved_to = f"{site.url.replace('127.0.0.1', 'localhost')}/elsewhere"
    run(
        chosen={"hub_url": site.url, "hub_token": SecretStr("hush")},
        repo="me/film",
        file="grain.safetensors",
        with_token=True,
    )
    assert [(one["path"], one.get("authorization")) for one in site.seen] == [
        ("/me/film/resolve/main/grain.safetensors", "Bearer hush"),
        ("/elsewhere", None),
    ]


def test_a_cancel_stops_it(run: Any, site: Site, database: Database) -> None:
    beat = Beat()
    beat.cancelled = True
    with pytest.raises(Cancelled):
        run(beat, url=site.url)
    assert library.visible(database, None) == []


def test_a_name_that_was_taken_meanwhile_fails_with_the_reason(run: Any, site: Site) -> None:
    run(url=site.url)
    with pytest.raises(BadInput, match="one for both experts, or one each"):
        run(url=site.url, expert="high")
