"""`backprop ui`: binds the address, says how to get in, and serves until Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import webbrowser
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import uvicorn

from backpropagate.ui_config import UiConfig
from bp_core.errors import AddressUnusable
from bp_core.folders import home, write_json
from bp_runs.claim import Owner

from .app import create_app
from .sessions import Sessions
from .site import Site

_LOCAL, _ALL = "127.0.0.1", "0.0.0.0"
_HEADER_BYTES = 16 * 1024
_CONNECTIONS = 200


def serve(config: UiConfig, credentials: tuple[str, str] | None = None) -> None:
    """Serve the page. Raises AddressUnusable, and BadValue for a root that is none."""
    to_all = config.container or (config.share and config.certificate)
    host = config.host or (_ALL if to_all else _LOCAL)
    with closing(_bound(host, config)) as listening:
        port = listening.getsockname()[1]
        site = Site.of(config, port, credentials)
        app = create_app(site)
        write_json(_mark(port), vars(Owner.this()))
        code = "" if credentials else f"/#{site.sessions.new_code()}"
        print(f"The page: {site.address}{code}", flush=True)
        print("Ctrl-C ends the page; training that was started goes on.", file=sys.stderr, flush=True)
        if config.open and not (config.share or config.container) and _has_screen():
            webbrowser.open(f"{site.address}{code}")
        try:
            _server(app, config).run(sockets=[listening])
        finally:
            app.state.helpers.end()
            with suppress(OSError):
                _mark(port).unlink()


def _server(app: Any, config: UiConfig) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,  # addresses may hold what is nobody's business
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http="h11",
            h11_max_incomplete_event_size=_HEADER_BYTES,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=2,
            ssl_certfile=config.certificate,
            ssl_keyfile=config.key,
        )
    )


def _bound(host: str, config: UiConfig) -> socket.socket:
    """A socket at the address. One that a page of ours has already is told with a way in."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if os.name != "nt":  # there it would let two servers have one port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, config.port))
        listening.listen()  # from now on a browser may come, even before the server takes it
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE and _is_ours(config.port):
            code = Sessions(home() / "ui").new_code()
            fix = f"Open it: http://{_LOCAL}:{config.port}/#{code}"
            raise AddressUnusable("the page is running there already.", where=f"port {config.port}", fix=fix) from error
        raise AddressUnusable(f"cannot listen there ({error.strerror}).", where=f"{host}:{config.port}") from error
    listening.set_inheritable(False)
    return listening


def _is_ours(port: int) -> bool:
    """Whether a page of this user listens there."""
    try:
        owner = Owner(**json.loads(_mark(port).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False
    return owner.alive() is True


def _mark(port: int) -> Path:
    return home() / "ui" / f"page-{port}.json"


def _has_screen() -> bool:
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
