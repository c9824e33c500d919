"""The command info: what a bug report needs to say about a machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from bp_core.backends import find, rails
from bp_core.folders import home
from bp_runs.versions import versions

from . import tables
from .options import Json


def info(json: Json = False) -> None:
    """Show versions, backends and folders, for a bug report."""
    found = describe()
    tables.print_json(found) if json else _show(found)


def describe() -> dict[str, Any]:
    """Versions, backends, folders and free disk space (bytes)."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": versions(),
        "backends": {name: _backend(name) for name in rails()},
        "home": str(home()),
        "disk_free": shutil.disk_usage(Path.cwd()).free,
    }


def _show(found: dict[str, Any]) -> None:
    """`describe` for a person."""
    table = tables.facts(*((name, str(found[name])) for name in ("python", "platform", "processors", "home")))
    table.add_row("[bold]disk free[/]", f"{found['disk_free'] / 1e9:.0f} GB here")
    for name, backend in found["backends"].items():
        memory = f", {backend['free'] / 1e9:.1f} of {backend['total'] / 1e9:.1f} GB free" if backend["total"] else ""
        says = f"{backend['device']}{memory}" if backend["available"] else f"not here: {backend['reason']}"
        table.add_row(f"[bold]backend {name}[/]", says)
    for name, number in found["packages"].items():
        table.add_row(name, number or "not installed")
    Console().print(table)


def _backend(name: str) -> dict[str, Any]:
    probe = find(name).probe()
    return {field: getattr(probe, field) for field in ("available", "device", "reason", "total", "free")}
