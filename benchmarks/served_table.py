"""What comes back through llama-server and Ollama of the models of tools_table.py: base beside trained.

    uv run python benchmarks/served_table.py --work FOLDER --base MODEL --out benchmarks/results/tools.json --ollama

Exports what tools_table.py trained in FOLDER as q8_0, and the base, and asks each file held-out rows with
`backprop verify`: rows with tools, half of them of tools that no training row has, and sums with thoughts. What is
found is added to the results under `served`. With `--ollama` the files are registered in the Ollama of OLLAMA_HOST and
asked there, too, except for the base with tools, which Ollama refuses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools_rows import write
from tools_table import HELD_OUT, sum_row, sums

_SHOWN = ("llama-server: ", "Ollama: ")


def backprop(*words: str | Path | int) -> Any:
    command = [sys.executable, "-m", "backpropagate", *map(str, words), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def exported(model: Path, file: Path, name: str | None) -> Path:
    """A model as q8_0, and as `name` in Ollama. One that is there already is not exported again."""
    if not file.is_file():
        settings = ["--quantization", "q8_0", "--output", file, "--answers", 0]
        settings += ["--ollama-name", name, "--ollama-overwrite"] if name else []
        backprop("export", model, *settings)
    return file


def asked(file: Path, rows: Path, count: int, name: str | None) -> dict[str, Any]:
    """The shares that `verify` found, with their intervals in words."""
    words = ["--data", rows, "--answers", count, *(["--ollama-name", name] if name else [])]
    found = backprop("verify", file, *words)
    shares = [check for check in found["checks"] if check["name"].startswith(_SHOWN)]
    return {check["name"]: {"measured": check["measured"], "note": check["note"]} for check in shares}


def show(title: str, found: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}\n\n| | base | trained |\n|---|---|---|")
    names = {name: None for each in found.values() for name in each}
    for name in names:
        cells = [_cell(found[who].get(name)) for who in ("base", "trained")]
        print(f"| {name} | {' | '.join(cells)} |")


def _cell(share: dict[str, Any] | None) -> str:
    return f"{share['measured']} ({share['note']})" if share else "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="what tools_table.py was given")
    parser.add_argument("--base", type=Path, required=True, help="the folder of the base")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=80, help="rows with tools; half as many sums")
    parser.add_argument("--only", choices=("tools", "thoughts"), help="the other stays as it is in the results")
    parser.add_argument("--ollama", action="store_true", help="ask in Ollama, too")
    wanted = parser.parse_args()
    rows = {"tools": HELD_OUT, "thoughts": wanted.work / "served-sums.jsonl"}
    write(rows["thoughts"], [sum_row(*each) for each in sums(wanted.rows // 2)])
    known = json.loads(wanted.out.read_text(encoding="utf-8"))
    results: dict[str, Any] = known.setdefault("served", {})
    for kind, path in rows.items():
        if wanted.only not in (None, kind):
            continue
        name = f"bp-table-{kind}" if wanted.ollama else None
        file = exported(wanted.work / kind / "lora", wanted.work / f"{kind}.gguf", name)
        base_name = f"bp-table-base-{kind}" if wanted.ollama and kind == "thoughts" else None
        base = exported(wanted.base, wanted.work / f"base-{kind}.gguf", base_name)
        count = wanted.rows if kind == "tools" else wanted.rows // 2
        results[kind] = {
            "base": asked(base, path, count, base_name),
            "trained": asked(file, path, count, name),
        }
        show(kind, results[kind])
        wanted.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
