"""The command push."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bp_core.units import counted, gigabytes
from bp_export.config import PushConfig

from ..hub.push import Shipment, gather
from . import tables
from .options import NAME, Json, with_options


@with_options(PushConfig)
def push(
    settings: dict[str, Any],
    path: Annotated[str, typer.Argument(help=NAME)],
    repo: Annotated[str, typer.Option(help="Where to: owner/name. It is made if it is not there.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files and the card, and send nothing.")] = False,
    json: Json = False,
) -> None:
    """Upload what was trained to the Hugging Face hub, with a card. The token: HF_TOKEN, or `hf auth login`."""
    shipment = gather(path, repo, PushConfig(**settings))
    if dry_run:
        tables.print_json(shipment.as_dict() | {"card": shipment.card}) if json else _show(shipment)
        return
    done = shipment.push()
    if json:
        tables.print_json(shipment.as_dict() | {"url": done.url, "commit": done.commit})
    else:
        print(f"{counted(len(shipment.items), 'file')}: {done.url} (commit {done.commit[:8]})")


def _show(shipment: Shipment) -> None:
    seen = "private" if shipment.private else "as the repository is, public if it is new"
    table = Table("file", "size", title=f"Would be uploaded to {shipment.repo}, {seen}", title_justify="left")
    for item in shipment.items:
        table.add_row(item.name, gigabytes(item.size) if item.size > 100_000 else f"{item.size} bytes")
    Console().print(table)
    print(tables.visible(shipment.card))
