"""What training teaches a base without tools and thoughts: calls and thoughts on held-out rows, base beside trained.

    uv run python benchmarks/tools_table.py --out benchmarks/results/tools.json

Trains SmolLM2-135M on examples/tools.jsonl with `backprop train`, and measures with `backprop eval` on
examples/tools-held-out.jsonl, whose second half is of tools that no training row has; then the same on
examples/traces.jsonl, with sums of other wares.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools_rows import EXAMPLES, SEED, write

from bp_eval.gates import OF_THOUGHTS, OF_TOOLS

MODEL = "smollm2-135m"
TOOLS, HELD_OUT, TRACES = (EXAMPLES / f"{name}.jsonl" for name in ("tools", "tools-held-out", "traces"))
WARES = (
    "fig tarts",
    "corn muffins",
    "spelt loaves",
    "walnut rings",
    "pear pies",
    "salt sticks",
    "rice cakes",
    "malt rolls",
)
ANSWERS = ("exact_match", "f1")


def backprop(*words: str | Path | int) -> Any:
    """The result of a command, from its JSON."""
    command = [sys.executable, "-m", "backpropagate", *map(str, words), "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def trained(folder: Path, *options: str | Path | int) -> dict[str, Any]:
    """What `backprop train` tells of a run in this folder. One that is there already is not trained again."""
    result = folder / "result.json"
    if not result.is_file():
        run = backprop("train", "--model", MODEL, *options, "--report-to", "none", "--output", folder)
        result.write_text(json.dumps(run), encoding="utf-8")
    return dict(json.loads(result.read_text(encoding="utf-8")))


def measured(adapter: Path, rows: Path, count: int, names: tuple[str, ...]) -> dict[str, Any]:
    """The measures of the base and of what was trained, and the difference."""
    words = ("--against", "base", "--answers", count, "--samples", count, "--max-tokens", 80)
    found = backprop("eval", adapter, "--data", rows, *words)
    other = found["against"]
    parts = {"base": other["measures"], "trained": found["measures"], "change": other["change"]}
    table = {name: {who: values[name] for who, values in parts.items()} for name in names if name in found["measures"]}
    tools = found.get("tools", {})
    counts = {key: tools[key] for key in ("with_call", "without_call") if key in tools}
    return {"rows": found["rows"], **counts, "measures": table}


def tools_table(folder: Path, steps: int, count: int) -> dict[str, Any]:
    """Rows of tools that were trained, and of tools that were not, each measured apart."""
    run = trained(folder / "tools", "--data", TOOLS, "--tools-template", "hermes", "--steps", steps)
    lines = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    half = len(lines) // 2
    found = {}
    for name, rows in (("tools in training rows", lines[:half]), ("tools only held out", lines[half:])):
        path = folder / f"{name.replace(' ', '-')}.jsonl"
        write(path, rows[:count])
        found[name] = measured(Path(run["adapter"]), path, count, OF_TOOLS)
    return {"training": training(run), "held_out": found}


def thoughts_table(folder: Path, steps: int, count: int) -> dict[str, Any]:
    """Sums of wares that no training row has."""
    run = trained(folder / "thoughts", "--data", TRACES, "--reasoning-trace", "--steps", steps)
    path = folder / "sums.jsonl"
    write(path, [sum_row(*each) for each in sums(count)])
    found = measured(Path(run["adapter"]), path, count, (*ANSWERS, *OF_THOUGHTS))
    return {"training": training(run), "held_out": {"sums of other wares": found}}


def sums(count: int) -> list[tuple[str, int, int]]:
    """Ware, number and price of each sum, none twice."""
    every = [(ware, number, price) for ware in WARES for number in range(2, 9) for price in range(2, 10)]
    return random.Random(SEED).sample(every, count)


def sum_row(ware: str, number: int, price: int) -> dict[str, Any]:
    total = number * price
    product = f"{number} times {price} is {total}, so the sum is {total} crowns."
    thought = f"One costs {price} crowns and the guest wants {number}. {product}"
    question = {"role": "user", "content": f"What do {number} {ware} cost at {price} crowns each?"}
    answer = {"role": "assistant", "content": f"Together {total} crowns.", "reasoning_content": thought}
    return {"messages": [question, answer]}


def training(run: dict[str, Any]) -> dict[str, Any]:
    losses = run["losses"]
    return {"steps": len(losses), "rows": run["counts"]["rows"], "first_loss": losses[0], "last_loss": losses[-1]}


def show(title: str, table: dict[str, Any]) -> None:
    made = table["training"]
    losses = f"loss {made['first_loss']:.3f} → {made['last_loss']:.3f}"
    print(f"\n{title}: {made['rows']} rows, {made['steps']} steps, {losses}")
    print("\n| held-out rows | measure | base | trained | change |\n|---|---|---|---|---|")
    for name, found in table["held_out"].items():
        for measure, values in found["measures"].items():
            cells = [_cell(values[who]) for who in ("base", "trained", "change")]
            print(f"| {name} ({found['rows']}) | `{measure}` | {' | '.join(cells)} |")


def _cell(found: dict[str, float]) -> str:
    return f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40, help="of 8 rows with tools")
    parser.add_argument("--trace-steps", type=int, default=24, help="of 8 rows with thoughts")
    parser.add_argument("--rows", type=int, default=40, help="held-out rows of each kind")
    parser.add_argument("--work", type=Path, help="a folder for the runs, which are then kept and used again")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = wanted.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {"model": MODEL}
        found["tools"] = tools_table(folder, wanted.steps, wanted.rows)
        found["thoughts"] = thoughts_table(folder, wanted.trace_steps, wanted.rows)
    known = json.loads(wanted.out.read_text(encoding="utf-8")) if wanted.out.is_file() else {}  # served_table.py adds
    wanted.out.write_text(json.dumps(known | found, indent=1) + "\n", encoding="utf-8")
    show("Tools", found["tools"])
    show("Thoughts", found["thoughts"])


if __name__ == "__main__":
    main()
