"""Add security headers to responses whose route does not set them: no content sniffing, no framing, no loading of
other resources, and no use by pages of other origins than the allowed ones."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Browsers show an image or video that is opened directly in a generated page, which needs these sources.
_POLICY = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_YEAR_SECONDS = 365 * 24 * 3600


class SecureHeaders:
    def __init__(self, app: ASGIApp, *, other_origins: bool) -> None:
        self.app = app
        usual = {
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "same-origin",
            "content-security-policy": _POLICY,
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "cross-origin" if other_origins else "same-origin",
        }
        self._usual = [(name.encode(), value.encode()) for name, value in usual.items()]
        self._usual_https = [*self._usual, (b"strict-transport-security", f"max-age={_YEAR_SECONDS}".encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                present = {name for name, _ in headers}
                usual = self._usual_https if scope["scheme"] == "https" else self._usual
                headers += [one for one in usual if one[0] not in present]
            await send(message)

        await self.app(scope, receive, send_with_headers)
