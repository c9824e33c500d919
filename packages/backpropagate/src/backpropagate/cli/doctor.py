"""The command doctor: one look at the machine."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape

from ..doctor.examine import examine
from ..doctor.finding import Examination
from . import tables
from .options import Json

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}


def doctor(json: Json = False) -> None:
    """Look at card, driver, torch, packages, disks and Ollama, and say what is wrong and which command helps.

    Exits 1 if there is a problem; a note is none. Nothing is trained, downloaded or changed.
    """
    found = examine()
    tables.print_json(found.as_dict()) if json else _show(found)
    if found.problems:
        raise typer.Exit(1)


def _show(found: Examination) -> None:
    console = Console()
    for finding in found.findings:
        mark = _MARKS[finding.verdict]
        console.print(f"{mark} [bold]{finding.what}[/]: {escape(finding.message)}", soft_wrap=True, highlight=False)
        if finding.command:
            console.print(f"    {escape(finding.command)}", soft_wrap=True, highlight=False)
    console.print(f"\n[bold]{escape(found.verdict)}[/]", soft_wrap=True, highlight=False)
