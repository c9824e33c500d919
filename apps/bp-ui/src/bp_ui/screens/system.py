"""What this machine has: versions, backends, disk; and signing out."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bp_core.folders import home
from bp_core.units import gigabytes
from bp_runs.versions import versions

from ..render import page
from .request import helpers_of, site_of


def show(request: Request) -> Response:
    site = site_of(request)
    return page(
        request,
        "system.html",
        facts=_facts(site.here),
        packages=versions(),
        roots=[(name, str(path)) for name, path in site.folders.roots.items()],
        token=_has_token(),
        has_password=site.password is not None,
    )


def backends(request: Request) -> Response:
    """What can compute here; asking loads the frameworks, so a helper does."""
    return JSONResponse(helpers_of(request).ask("plan", {"what": "backends"}))


def _facts(here: Path) -> list[tuple[str, str]]:
    disk = shutil.disk_usage(here)
    return [
        ("Python", sys.version.split()[0]),
        ("System", platform.platform()),
        ("Processors", str(os.cpu_count())),
        ("Free disk here", f"{gigabytes(disk.free)} of {gigabytes(disk.total)}"),
        ("This folder", str(here)),
        ("Home", str(home())),
    ]


def _has_token() -> bool:
    """Whether there is a token of the hub; it is never shown."""
    file = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "token"
    return bool(os.environ.get("HF_TOKEN")) or file.is_file()


def diagnostics(request: Request) -> Response:
    """All of it as text for a bug report, without secrets."""
    told: dict[str, Any] = {"facts": dict(_facts(site_of(request).here)), "packages": versions()}
    return JSONResponse(told)


ROUTES = [
    Route("/system", show),
    Route("/system/backends", backends),
    Route("/system/diagnostics", diagnostics),
]
