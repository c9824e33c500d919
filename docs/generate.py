"""Writes docs/cli.md, docs/config.md and docs/errors.md from the code; with --check, fails when one is stale."""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path

from bp_core.config import ExportConfig, TrainConfig, settings
from bp_core.errors import ERRORS

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py. Change the code, then run `uv run python docs/generate.py`. -->\n\n"


def cli() -> str:
    words = [sys.executable, "-m", "typer", "backpropagate.cli", "utils", "docs", "--name", "backprop"]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=True)
    return html.unescape(done.stdout).strip() + "\n"


def config() -> str:
    parts = ["# Settings\n", "Each is a keyword of `Trainer`, an option of `backprop`, and an environment variable.\n"]
    for verb, kind in (("train", TrainConfig), ("export", ExportConfig)):
        parts.append(f"## {verb}\n")
        parts.append("| setting | default | environment variable | meaning |\n|---|---|---|---|")
        for field in settings(kind):
            default = "computed" if field.default is None else f"`{field.default}`"
            variable = f"`BACKPROPAGATE_{verb.upper()}_{field.name.upper()}`"
            parts.append(f"| `{field.name}` | {default} | {variable} | {field.help} |")
        parts.append("")
    return "\n".join(parts).strip() + "\n"


def errors() -> str:
    parts = [
        "# Errors\n",
        "Every error has a stable code. Exit status: 1 you can fix it (INPUT, CONFIG),",
        "2 the run or a dependency failed (DEP, RUNTIME, STATE), 130 interrupted.\n",
        "| code | exit | what happened | what to do |\n|---|---|---|---|",
    ]
    for code, kind in sorted(ERRORS.items()):
        what = (kind.__doc__ or "").replace("|", r"\|")
        parts.append(f"| `{code}` | {kind.exit_code} | {what} | {kind.fix} |")
    return "\n".join(parts) + "\n"


def main(check: bool) -> int:
    stale = []
    for name, page in (("cli.md", cli()), ("config.md", config()), ("errors.md", errors())):
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != NOTE + page:
            stale.append(name)
            if not check:
                path.write_text(NOTE + page, encoding="utf-8", newline="\n")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run `uv run python docs/generate.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
