"""What every request passes before anything else: the right host, the right origin, a session, and not too many.

The page is reached through a browser that also shows other people's pages. They may send requests here, and must
neither change anything nor read an answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .site import Site

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Frame-Options": "DENY",
}
_READING = ("GET", "HEAD")
_OPEN = ("/sign-in",)  # besides /static/…
_BODIES = ("application/json", "application/octet-stream")
_A_SECOND, _BURST = 200.0, 600.0  # requests


@dataclass
class Allowance:
    """So many requests a second, and some more at once."""

    rate: float = _A_SECOND
    most: float = _BURST
    left: float = _BURST
    at: float = field(default_factory=time.monotonic)

    def takes(self) -> bool:
        now = time.monotonic()
        self.left = min(self.most, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Gate:
    """The outermost layer. It refuses before anything is routed, and puts the protecting headers on every answer."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app, self._site = app, site
        self._allowance = Allowance()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._refusal(scope)

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if self._site.secure:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await (refused or self._app)(scope, receive, protected)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further."""
        headers = Headers(scope=scope)
        named = headers.getlist("host")
        if len(named) != 1 or named[0].lower() not in self._site.hosts:
            return _no(403, "This address is not one of the page's.")
        if not self._allowance.takes():
            return _no(429, "Too many requests at once.", {"Retry-After": "1"})
        if scope["method"] not in _READING:
            if refused := self._cannot_change(headers):
                return refused
        elif headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return _no(403, "This is not for other sites.")
        path = scope["path"]
        if path in _OPEN or path.startswith("/static/"):
            return None
        return None if self._has_session(scope) else self._to_sign_in(scope, headers)

    def _cannot_change(self, headers: Headers) -> Response | None:
        """Only a page of ours changes anything: its origin is ours, and its body of a kind that no form can send."""
        origins = headers.getlist("origin")
        if len(origins) != 1 or origins[0] not in self._site.origins:
            return _no(403, "Only the page itself may do this.")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _no(403, "Only the page itself may do this.")
        if headers.get("content-type", "").partition(";")[0].strip() not in _BODIES:
            return _no(403, "Only JSON and files are taken.")
        return None

    def _has_session(self, scope: Scope) -> bool:
        secret = HTTPConnection(scope).cookies.get(self._site.cookie, "")
        return bool(secret) and self._site.sessions.is_open(secret)

    def _to_sign_in(self, scope: Scope, headers: Headers) -> Response:
        if scope["method"] in _READING and "text/html" in headers.get("accept", ""):
            wanted = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
            there = "" if wanted == "/" else f"?next={quote(wanted, safe='/')}"
            return RedirectResponse(f"/sign-in{there}", 303)
        return _no(401, "Sign in first.")


def own_path(wanted: str) -> str:
    """`wanted` if it is a path of this page, else the start: nobody is sent elsewhere after signing in."""
    plain = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    clean = plain and "\\" not in wanted and all(ord(sign) > 32 for sign in wanted)
    return wanted if clean else "/"


def _no(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    error = {"code": "", "message": message, "where": None, "fix": ""}
    return JSONResponse({"error": error}, status, headers=headers)
