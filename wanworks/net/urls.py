"""Validate URLs from requests."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from wanworks.errors import WanworksError

PORTS = {"http": 80, "https": 443}
# Limits of RFC 1035. Python's resolver raises UnicodeError for longer names and empty labels.
_HOST_CHARACTERS = 253
_LABEL_CHARACTERS = 63
_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]*)?")


class ForbiddenAddress(WanworksError):
    """An address to which this server must not send requests."""

    code = "forbidden_address"


def check_url(url: str) -> SplitResult:
    """Return the parts of an http(s) address with a host and without a login. Raises only ForbiddenAddress."""
    if any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) <= 0xDFFF for letter in url):
        raise ForbiddenAddress("The address must not contain control characters or lone surrogates")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ForbiddenAddress("The address cannot be read") from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise ForbiddenAddress("The address must begin with http:// or https:// and name a host")
    if not parts.hostname.isascii():
        raise ForbiddenAddress("The host of the address must be written in ASCII (xn--...)")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenAddress("The address must not contain a login")
    _check_host(parts)
    return parts


def _check_host(parts: SplitResult) -> None:
    """Check a host. Raises ForbiddenAddress if no resolver accepts it."""
    host = parts.hostname or ""
    if "[" in parts.netloc or "]" in parts.netloc:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ForbiddenAddress("The host of the address is not a valid IPv6 address") from None
        if _BRACKETED.fullmatch(parts.netloc) is None:
            raise ForbiddenAddress("The host of the address must be an IPv6 address in brackets and nothing else")
        return
    name = host.removesuffix(".")
    labels = name.split(".")
    if not all(labels):
        raise ForbiddenAddress("The host of the address has an empty label: two dots, or one at its beginning")
    if any(len(label) > _LABEL_CHARACTERS for label in labels):
        raise ForbiddenAddress(f"The host of the address has a label of more than {_LABEL_CHARACTERS} characters")
    if len(name) > _HOST_CHARACTERS:
        raise ForbiddenAddress(f"The host of the address has more than {_HOST_CHARACTERS} characters")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ForbiddenAddress(
            "The host of the address may contain only letters, digits, hyphens, underscores and dots"
        )
