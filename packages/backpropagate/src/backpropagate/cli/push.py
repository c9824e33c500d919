"""The verb `push`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bp_core.units import gigabytes
from bp_export.config import PushConfig

from ..hub.push import Shipment, gather
from . import tables
from .quiet import quiet_libraries


def push(settings: Mapping[str, Any], path: str, repo: str, *, dry_run: bool, json: bool) -> None:
    quiet_libraries()
    shipment = gather(Path(path), repo, PushConfig(**settings))
    if dry_run:
        tables.print_json(shipment.as_dict() | {"card": shipment.card}) if json else _show(shipment)
        return
    done = shipment.push()
    if json:
        tables.print_json(shipment.as_dict() | {"url": done.url, "commit": done.commit})
    else:
        print(f"{len(shipment.items)} files: {done.url} (commit {done.commit[:8]})")


def _show(shipment: Shipment) -> None:
    seen = "private" if shipment.private else "as the repository is, public if it is new"
    table = Table("file", "size", title=f"Would be uploaded to {shipment.repo}, {seen}", title_justify="left")
    for item in shipment.items:
        table.add_row(item.name, gigabytes(item.size) if item.size > 100_000 else f"{item.size} bytes")
    Console().print(table)
    print(tables.visible(shipment.card))
