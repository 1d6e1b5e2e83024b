"""Signatures for expiring links to artifacts and for sessions of the page. Pure.

The installation's key is generated once and kept in its database.
"""

import hashlib
import hmac


def sign(key: str, purpose: str, *parts: str) -> str:
    """Return the HMAC-SHA256 in hex. A signature for one `purpose` is not valid for another."""
    text = "\n".join((purpose, *parts)).encode()
    return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()


def is_signed(signature: str, key: str, purpose: str, *parts: str) -> bool:
    """Return whether the signature is valid, in constant time."""
    return hmac.compare_digest(sign(key, purpose, *parts).encode(), signature.encode("utf-8", "surrogateescape"))
