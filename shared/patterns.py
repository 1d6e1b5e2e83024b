"""The patterns of texts in requests, settings and the catalogue, and what a text must be to match them, in words."""

import re

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PART_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
NODE = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
ALIAS = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
REPO = r"^[\w.-]+/[\w.-]+$"
REPO_FILE = r"^[\w.-][\w. /-]*\.safetensors$"
RESOLUTION = r"^[1-9]\d{0,4}x[1-9]\d{0,4}$"
CAPABILITY = r"^\d+\.\d+$"
USAGE_GROUPS = r"^(key|day|model)(,(key|day|model)){0,2}$"
URL = r"^https?://[^\s]+$"
COLLECTOR = r"^https?://[^\s?#]+$"
SERVER = r"^https?://[^\s/@?#]+/?$"
ORIGINS = r"^(https?://[^\s,/]+(,\s*https?://[^\s,/]+)*)?$"
BUCKET = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?$"
REGION = r"^[A-Za-z0-9-]{1,64}$"
COPIES = "^(auto|none|(bf16|int8|fp8)(,(bf16|int8|fp8)){0,2})$"
LAYOUT = "^(auto|(int8-)?(full|text-offload|offload|stream))$"

_BEGINS = "must begin with a letter or digit and consist of"
_WORDS = {
    NAME: f"{_BEGINS} at most 64 letters, digits, dots, hyphens and underscores",
    PART_NAME: f"{_BEGINS} letters, digits, dots, hyphens and underscores",
    NODE: f"{_BEGINS} at most 63 letters, digits, hyphens and underscores",
    ALIAS: f"{_BEGINS} at most 128 letters, digits, dots, slashes, hyphens and underscores",
    REPO: "must be a repository such as OWNER/NAME",
    REPO_FILE: "must be the path of a .safetensors file in the repository",
    RESOLUTION: "must be a width and a height such as 1280x720",
    CAPABILITY: "must be a version such as 8.0",
    USAGE_GROUPS: "must be 'key', 'day' or 'model', or several of them joined by commas",
    URL: "must be a URL that begins with http:// or https://",
    COLLECTOR: "must be a URL that begins with http:// or https://, without a query",
    SERVER: "must be http:// or https:// and a host, with a port or without, and no path",
    ORIGINS: "must be origins such as https://HOST:PORT, without a path, joined by commas",
    BUCKET: "must be s3://BUCKET or s3://BUCKET/PREFIX",
    REGION: "must consist of at most 64 letters, digits and hyphens",
    COPIES: "must be 'auto', 'none', or some of 'bf16', 'int8' and 'fp8' joined by commas",
    LAYOUT: "must be 'auto', or 'full', 'text-offload', 'offload' or 'stream' with or without 'int8-' before it",
}


def one_of(*words: str) -> str:
    """Return the pattern of one of these words."""
    return f"^({'|'.join(words)})$"


def in_words(pattern: str) -> str:
    """Return what a text must be to match a pattern."""
    if re.fullmatch(r"\^\(\w+(\|\w+)*\)\$", pattern):
        *others, last = (repr(word) for word in pattern[2:-2].split("|"))
        return f"must be {', '.join(others)} or {last}" if others else f"must be {last}"
    return _WORDS.get(pattern, f"must match the pattern {pattern}")
