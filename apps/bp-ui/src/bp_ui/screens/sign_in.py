"""Signing in with the one-time code or a password, and out."""

from __future__ import annotations

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..gate import own_path
from ..render import page
from ..site import Site
from .request import body_of, site_of

_SECONDS = 30 * 24 * 3600
_WRONG = "That is not right, or the code was used before or is older than ten minutes."


def show(request: Request) -> Response:
    return page(request, "sign_in.html", password=site_of(request).password is not None)


async def sign_in(request: Request) -> Response:
    site, body = site_of(request), await body_of(request)
    address = _address(request, site)
    if site.password is not None and (wait := site.password.wait(address)):
        return JSONResponse(_no(f"Too many tries; the next one is in {wait} s."), 429, {"Retry-After": str(wait)})
    secret = await anyio.to_thread.run_sync(_secret, site, body)
    if secret is None:
        return JSONResponse(_no(_WRONG), 403)
    site.sessions.end(request.cookies.get(site.cookie, ""))  # a session from before is never taken over
    response = JSONResponse({"location": own_path(str(body.get("next", "/")))})
    response.set_cookie(
        site.cookie, secret, max_age=_SECONDS, path="/", httponly=True, samesite="strict", secure=site.secure
    )
    return response


async def sign_out(request: Request) -> Response:
    site, body = site_of(request), await body_of(request)
    if body.get("everywhere"):
        site.sessions.end_all()
    site.sessions.end(request.cookies.get(site.cookie, ""))
    response = JSONResponse({"location": "/sign-in"})
    response.delete_cookie(site.cookie, path="/", httponly=True, samesite="strict", secure=site.secure)
    return response


def _secret(site: Site, body: dict[str, object]) -> str | None:
    """A new session's secret for who may come in. With a password there are no codes."""
    if site.password is None:
        return site.sessions.redeem(str(body.get("code", "")))
    name, password = str(body.get("name", "")), str(body.get("password", ""))
    return site.sessions.begin() if site.password.fits(name, password) else None


def _address(request: Request, site: Site) -> str:
    """Who asks: behind a proxy what the proxy says last, which it has seen itself."""
    forwarded = request.headers.get("x-forwarded-for", "") if site.config.behind else ""
    return forwarded.rpartition(",")[2].strip() or (request.client.host if request.client else "")


def _no(message: str) -> dict[str, object]:
    fix = "Start `backprop ui` again, or once more beside it: it prints a new address."
    return {"error": {"code": "", "message": message, "where": None, "fix": fix}}


ROUTES = [
    Route("/sign-in", show, methods=["GET"]),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
]
