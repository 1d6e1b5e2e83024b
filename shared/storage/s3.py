"""Access to a bucket: its file system, the translation of its errors, and one file. It knows nothing of jobs."""

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
_TRIES = 2  # of one request; a whole upload has further retries
_PIECE_BYTES = 4 * 2**20  # of each read for a client

# These log what they sign at the lowest level.
for _name in ("botocore", "aiobotocore", "s3fs"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def files(settings: Settings, endpoint: str | None) -> s3fs.S3FileSystem:
    """Return a file system for the bucket at that endpoint. It does not connect yet.

    Raises ConfigurationError if the environment's proxy cannot be used.
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
        # Servers other than Amazon's usually have no regions, but a signature needs the name of one.
        client_kwargs={"region_name": settings.store_region or ("us-east-1" if endpoint is not None else None)},
        config_kwargs={
            "signature_version": "s3v4",
            # Also set without a proxy: botocore would otherwise read the environment, and use a proxy for loopback.
            "proxies": {urlsplit(place).scheme: proxy} if proxy is not None else {},
            "s3": {"addressing_style": addressing, "payload_signing_enabled": True},
            # Many servers other than Amazon's refuse newer checksums; all accept Content-MD5.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _QUIET_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    opened.retries = 1  # botocore's retries are enough
    return opened


@contextmanager
def answers() -> Iterator[None]:
    """Translate temporary errors to StoreUnavailable. FileNotFoundError passes through."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise StoreUnavailable("The bucket refuses access") from error
    except (OSError, BotoCoreError, ClientError, HttpError) as error:
        raise StoreUnavailable() from error


@contextmanager
def refusals(place: str) -> Iterator[None]:
    """Translate errors that only an operator can fix to ConfigurationError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"WANWORKS_STORE_URL: there is no bucket at {place}; create it or correct the URL"
        ) from error
    except StoreUnavailable as error:
        if isinstance(error.__cause__, PermissionError):
            message = (
                f"WANWORKS_STORE_URL: {place} refuses access: check the key, its secret, the region and the permissions"
            )
            raise ConfigurationError(message) from error
        if isinstance(error.__cause__, NoCredentialsError):
            message = "WANWORKS_STORE_KEY_ID is not set, and no credentials are found in the AWS configuration"
            raise ConfigurationError(message) from error
        raise


@dataclass(frozen=True)
class BucketFile:
    """One object, with the file systems for reading it here and for links to clients."""

    files: s3fs.S3FileSystem
    linked: s3fs.S3FileSystem
    path: str
    link_seconds: int

    def link(self, content_type: str, at_most_seconds: int | None = None) -> str:
        """Return a signed URL, without a request to the bucket."""
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
            raise StoreUnavailable("The bucket has only a part of the file")
        return piece


def _bucket(settings: Settings) -> str:
    return urlsplit(settings.store_url or "").hostname or ""


def _with_checksum(params: dict[str, Any], **_known: Any) -> None:
    """Add Content-MD5, the checksum that all servers support."""
    body = params.get("body")
    if isinstance(body, BytesIO):
        body = body.getbuffer()
    if isinstance(body, bytes | bytearray | memoryview):
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
