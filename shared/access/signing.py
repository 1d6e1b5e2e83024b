"""Words that only this installation can have written: links to artifacts that expire, and sessions of the page.

Pure: the key is the installation's own, drawn once and kept in its database.
"""

import hashlib
import hmac


def sign(key: str, purpose: str, *parts: str) -> str:
    """HMAC-SHA256 in hex. `purpose` keeps what was signed for one thing from being good for another."""
    said = "\n".join((purpose, *parts)).encode()
    return hmac.new(key.encode(), said, hashlib.sha256).hexdigest()


def is_signed(signature: str, key: str, purpose: str, *parts: str) -> bool:
    """In constant time, whatever was sent."""
    return hmac.compare_digest(sign(key, purpose, *parts).encode(), signature.encode("utf-8", "surrogateescape"))
