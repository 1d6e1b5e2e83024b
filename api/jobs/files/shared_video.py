"""The page that a browser shows for a signed link to a video: a player, the file's name and size, and a download.

The link grants the file alone, so the page contains nothing else of the job, such as its prompt. It has no script, and
loads nothing but the video, from the link itself.
"""

import hashlib
from base64 import b64encode
from datetime import UTC, datetime
from html import escape
from typing import Any

from starlette.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; min-height: 100dvh; display: grid; place-content: center; gap: 16px; padding: 16px;
  box-sizing: border-box; grid-template-columns: minmax(0, 960px); background: light-dark(#f5f6f8, #10151c);
  color: light-dark(#18202c, #e7ecf3); font: 0.9375rem/1.5 system-ui, sans-serif; }
video { display: block; width: 100%; max-height: 76dvh; border-radius: 8px; background: #0b0f14; }
footer { display: flex; flex-wrap: wrap; align-items: center; justify-content: space-between; gap: 12px; }
h1 { margin: 0; font-size: 1.05rem; }
p { margin: 0; color: light-dark(#556072, #a0adbd); }
a { padding: 10px 16px; border-radius: 8px; background: light-dark(#2a55cf, #86abff);
  color: light-dark(#ffffff, #0b1322); font-weight: 600; text-decoration: none; }
:focus-visible { outline: 2px solid light-dark(#2a55cf, #86abff); outline-offset: 2px; }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{name}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main><video src="{source}" controls loop playsinline aria-label="{name}"></video></main>
<footer>
<div><h1>{name}</h1><p>{size} · this link is valid until {until}</p></div>
<a href="{source}&amp;download=true" download>Download</a>
</footer>
</body>
</html>
"""
_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# `{bucket}` is the origin of signed artifact URLs, if artifacts are stored in a bucket.
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; media-src 'self'{{bucket}}; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_UNITS = ("B", "kB", "MB", "GB")


def page(address: str, artifact: dict[str, Any], expires: int, bucket: str | None) -> HTMLResponse:
    """Return the page for the artifact. `address`: the link; `bucket`: the origin to which it redirects players."""
    text = _PAGE.format(
        name=escape(artifact["name"]),
        style=_STYLE,
        source=escape(address),
        size=_size(artifact["bytes"]),
        until=f"{datetime.fromtimestamp(expires, UTC):%-d %b %Y, %H:%M} UTC",
    )
    known = {
        "Content-Security-Policy": _POLICY.format(bucket=f" {bucket}" if bucket is not None else ""),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",  # the address contains the signature
        "Vary": "Accept",
    }
    return HTMLResponse(text, headers=known)


def _size(value: int) -> str:
    size, unit = float(value), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.{0 if unit == 0 or size >= 100 else 1}f} {_UNITS[unit]}"
