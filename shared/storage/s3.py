"""The way to a bucket: its file system, what its silence and refusals are called here, and one file in it.

It knows nothing of jobs.
"""

import base64
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import s3fs
from aiobotocore.session import AioSession
from aiohttp import ClientError as HttpError
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from shared.errors import ConfigurationError, NotFound, StoreUnavailable
from shared.settings import Settings
from wanworks.net import proxies

_CONNECT_SECONDS = 5
_QUIET_SECONDS = 20
_TRIES = 2  # of one request, beside the patience of a whole upload
_PIECE_BYTES = 4 * 2**20  # of what is read for a client

# These say in full what they sign, at the lowest level.
for _name in ("botocore", "aiobotocore", "s3fs"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def files(settings: Settings, endpoint: str | None) -> s3fs.S3FileSystem:
    """The bucket's server as fsspec sees it, at that address. Connects to nothing yet.

    Raises ConfigurationError for a proxy of the environment that cannot be used.
    """
    addressing = settings.store_addressing
    if addressing == "auto":
        addressing = "virtual" if endpoint is None else "path"
    region = settings.store_region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    place = endpoint or f"https://{_bucket(settings)}.s3.{region or 'us-east-1'}.amazonaws.com"
    proxy = proxies.http_proxy_for(place, "the bucket")
    session = AioSession()
    session.register("before-call.s3", _with_checksum)
    opened = s3fs.S3FileSystem(
        session=session,
        key=settings.store_key_id,
        secret=settings.store_secret.get_secret_value() if settings.store_secret is not None else None,
        endpoint_url=endpoint,
        # A server that is not Amazon's has no regions as a rule, and still signs with the name of one.
        client_kwargs={"region_name": settings.store_region or ("us-east-1" if endpoint is not None else None)},
        config_kwargs={
            "signature_version": "s3v4",
            # Also where there is none: botocore would read the environment by itself, and ask loopback through a proxy.
            "proxies": {urlsplit(place).scheme: proxy} if proxy is not None else {},
            "s3": {"addressing_style": addressing, "payload_signing_enabled": True},
            # Newer checksums, sent unasked, are refused by other servers than Amazon's; Content-MD5 by none.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _QUIET_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    opened.retries = 1  # botocore's own are enough
    return opened


@contextmanager
def answers() -> Iterator[None]:
    """Makes StoreUnavailable of what may be better soon; lets FileNotFoundError through."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise StoreUnavailable("The bucket refuses us") from error
    except (OSError, BotoCoreError, ClientError, HttpError) as error:
        raise StoreUnavailable() from error


@contextmanager
def refusals(place: str) -> Iterator[None]:
    """At the start, what only an operator can put right is said as that."""
    try:
        yield
    except FileNotFoundError as error:
        raise ConfigurationError(f"WANWORKS_STORE_URL: there is no bucket at {place}") from error
    except StoreUnavailable as error:
        if isinstance(error.__cause__, PermissionError):
            message = f"WANWORKS_STORE_URL: {place} refuses us: the key, its secret, the region or the rights are wrong"
            raise ConfigurationError(message) from error
        if isinstance(error.__cause__, NoCredentialsError):
            message = "WANWORKS_STORE_KEY_ID is not set, and no credentials are found in the usual places of AWS"
            raise ConfigurationError(message) from error
        raise


@dataclass(frozen=True)
class BucketFile:
    """One object, and two ways to it: ours, and the one that clients are sent."""

    files: s3fs.S3FileSystem
    linked: s3fs.S3FileSystem
    path: str
    link_seconds: int

    def link(self, content_type: str, at_most_seconds: int | None = None) -> str:
        """Signed here: the bucket is not asked."""
        name = self.path.rpartition("/")[2]
        seconds = self.link_seconds if at_most_seconds is None else min(self.link_seconds, at_most_seconds)
        with answers():
            return str(
                self.linked.url(
                    self.path,
                    expires=seconds,
                    ResponseContentType=content_type,
                    ResponseContentDisposition=f'inline; filename="{name}"',
                )
            )

    def read(self, start: int, end: int) -> Iterator[bytes]:
        first = self._piece(start, end)

        def pieces() -> Iterator[bytes]:
            at, piece = start, first
            while True:
                yield piece
                at += len(piece)
                if at >= end:
                    return
                piece = self._piece(at, end)

        return pieces()

    def _piece(self, start: int, end: int) -> bytes:
        try:
            with answers():
                piece: bytes = self.files.cat_file(self.path, start=start, end=min(end, start + _PIECE_BYTES))
        except FileNotFoundError:
            raise NotFound("artifact", self.path.rpartition("/")[2]) from None
        if not piece:
            raise StoreUnavailable("The bucket has less of a file than it should")
        return piece


def _bucket(settings: Settings) -> str:
    return urlsplit(settings.store_url or "").hostname or ""


def _with_checksum(params: dict[str, Any], **_known: Any) -> None:
    """Every server compares this one, if it compares any."""
    body = params.get("body")
    if isinstance(body, BytesIO):
        body = body.getbuffer()
    if isinstance(body, bytes | bytearray | memoryview):
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
