"""Writes docs/cli.md, docs/config.md, docs/errors.md and tables of docs/data.md from the code.

With --check it writes nothing, and fails when one is stale.
"""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path

from bp_core.config import CheckConfig, ExportConfig, TrainConfig, settings
from bp_core.errors import ERRORS
from bp_data.check import KINDS
from bp_data.formats import FORMATS

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py. Change the code, then run `uv run python docs/generate.py`. -->\n\n"


def cli() -> str:
    words = [sys.executable, "-m", "typer", "backpropagate.cli", "utils", "docs", "--name", "backprop"]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=True)
    return html.unescape(done.stdout).strip() + "\n"


def config() -> str:
    parts = ["# Settings\n", "Each is a keyword of `Trainer`, an option of `backprop`, and an environment variable.\n"]
    for verb, kind in (("train", TrainConfig), ("export", ExportConfig), ("data check", CheckConfig)):
        parts.append(f"## {verb}\n")
        parts.append("| setting | default | environment variable | meaning |\n|---|---|---|---|")
        for field in settings(kind):
            default = "computed" if field.default is None else f"`{field.default}`"
            variable = f"`BACKPROPAGATE_{verb.upper().replace(' ', '_')}_{field.name.upper()}`"
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


def formats() -> str:
    parts = ["| format | keys |\n|---|---|"]
    for format in FORMATS:
        keys = " or ".join(", ".join(f"`{key}`" for key in names) for names in format.keys)
        parts.append(f"| {format.name} | {keys} |")
    return "\n".join(parts)


def kinds() -> str:
    parts = ["| kind | severity | what it is | what to do | repair |\n|---|---|---|---|---|"]
    for kind in KINDS.values():
        parts.append(f"| `{kind.name}` | {kind.severity} | {kind.meaning} | {kind.advice} | {kind.repair} |")
    return "\n".join(parts)


def data() -> str:
    """The page as it is, its tables written anew."""
    page = (DOCS / "data.md").read_text(encoding="utf-8")
    for name, table in (("formats", formats()), ("kinds", kinds())):
        begin, end = f"<!-- {name}: written by docs/generate.py -->\n", f"<!-- end of {name} -->"
        page = page[: page.index(begin)] + begin + table + "\n" + page[page.index(end) :]
    return page


def main(check: bool) -> int:
    stale = []
    pages = {"cli.md": NOTE + cli(), "config.md": NOTE + config(), "errors.md": NOTE + errors(), "data.md": data()}
    for name, page in pages.items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            stale.append(name)
            if not check:
                path.write_text(page, encoding="utf-8", newline="\n")
    if check and stale:
        print(f"stale: {', '.join(stale)}; run `uv run python docs/generate.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
