"""URLs that somebody gives: which can be asked at all."""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from wanworks.errors import WanworksError

PORTS = {"http": 80, "https": 443}
# RFC 1035: what a resolver takes. Python's own refuses longer names and empty labels with a UnicodeError.
_HOST_CHARACTERS = 253
_LABEL_CHARACTERS = 63
_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]*)?")


class ForbiddenAddress(WanworksError):
    """An address that this server may not be made to ask."""

    code = "forbidden_address"


def check_url(url: str) -> SplitResult:
    """The parts of an http(s) address with a host and no login in it. Raises ForbiddenAddress, and nothing else."""
    if any(ord(letter) < 32 or ord(letter) == 127 or 0xD800 <= ord(letter) <= 0xDFFF for letter in url):
        raise ForbiddenAddress("The address must not hold control characters or lone surrogates")
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
        raise ForbiddenAddress("The address must not hold a login")
    _check_host(parts)
    return parts


def _check_host(parts: SplitResult) -> None:
    """Raises ForbiddenAddress for what no resolver takes."""
    host = parts.hostname or ""
    if "[" in parts.netloc or "]" in parts.netloc:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ForbiddenAddress("The host of the address is no IPv6 address") from None
        if _BRACKETED.fullmatch(parts.netloc) is None:
            raise ForbiddenAddress("The host of the address is more, or other, than an IPv6 address in brackets")
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
        raise ForbiddenAddress("The host of the address may hold letters, digits, hyphens, underscores and dots only")
