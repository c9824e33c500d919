"""Draws what a command prints in a terminal as a picture: picture.py FILE.svg WIDTH LINES COMMAND…

LINES of the end are drawn, with a line of dots for what is before them.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main(target: str, width: str, lines: str, *command: str) -> None:
    variables = os.environ | {"FORCE_COLOR": "1", "COLUMNS": width, "TERM": "xterm-256color"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    console = Console(record=True, width=int(width), file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(f"[bold green]$[/] {' '.join(command)}\n")
    printed = done.stdout.splitlines()
    if len(printed) > int(lines):
        console.print("[dim]…[/]")
    console.print(Text.from_ansi("\n".join(printed[-int(lines) :])))
    Path(target).write_text(console.export_svg(title="Backpropagate"), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
