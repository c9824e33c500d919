"""What merging is worth on real text: three stages learned in turn by the 135M model, in four ways, from three seeds.

Stages are descriptions of functions of three libraries (function_descriptions.py). Ways: one adapter trained on
(sequential), SLAO, SLAO that learns some earlier rows again (slao+replay), and all stages at once (joint), the bound
that needs all the data. Each way makes the same number of steps on the same rows. Writes a table, and with --out JSON
and a picture; rows are kept as they come, so that a run that is cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import function_descriptions
from function_descriptions import LIBRARIES

from backpropagate import Trainer
from backpropagate.multi_run.session import PROBE
from backpropagate.reports.heat_map import heat_map
from bp_data.split import split
from bp_multirun.config import HELD_OUT

WAYS: dict[str, dict[str, Any]] = {
    "sequential": {"merge": "sequential"},
    "slao": {"merge": "slao"},
    "slao+replay": {"merge": "slao", "replay": 0.5},
}
JOINT = "joint"
SETTINGS = dict(backend="cpu", rank=8, batch_size=8, max_length=128, report_to="none", checkpoint_every=1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=10, help="of each stage")
    parser.add_argument("--rows", type=int, default=200, help="of each stage, a tenth of them held out")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    done = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {"runs": []}
    for seed in arguments.seeds:
        for way in (*WAYS, JOINT):
            if not any((run["seed"], run["way"]) == (seed, way) for run in done["runs"]):
                done["runs"].append(measure(way, seed, arguments))
                _keep(done, arguments)
    print(table(done["runs"]))


def measure(way: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One way from one seed, in a folder of its own."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"{library}.jsonl" for library in LIBRARIES]
        for library, file in zip(LIBRARIES, files, strict=True):
            function_descriptions.write(library, file, arguments.rows, seed)
        trainer = Trainer(arguments.model, output=str(folder / "out"), seed=seed, **SETTINGS)
        if way == JOINT:
            found = _joint(trainer, files, seed, arguments.steps)
        else:
            found = trainer.multi_run(files, steps_per_run=arguments.steps, watch=_silent, **WAYS[way]).as_dict()
    kept = ("losses", "general", "average_loss", "backward_transfer", "price_of_merging")
    print(f"{way}, seed {seed}: average loss {found['average_loss']:.4f}", flush=True)
    return {"way": way, "seed": seed, "seconds": round(time.perf_counter() - began)} | {k: found[k] for k in kept}


def _joint(trainer: Trainer, files: list[Path], seed: int, steps: int) -> dict[str, Any]:
    """All stages at once, with the steps of all; the same rows are held out as in a session."""
    parts = [split(file, HELD_OUT, seed=seed) for file in files]
    everything = files[0].with_name("all.jsonl")
    everything.write_bytes(b"".join(part.train.read_bytes() for part in parts))
    trainer.train(everything, steps=steps * len(files), watch=_silent)
    losses = [_loss(trainer, part.held_out) for part in parts]
    found = {"losses": [[loss] for loss in losses], "general": [None, _loss(trainer, PROBE)]}
    return found | {"average_loss": statistics.mean(losses), "backward_transfer": None, "price_of_merging": None}


def _loss(trainer: Trainer, file: Path) -> float:
    return trainer.evaluate(file, answers=0, notify=_silent).measures["loss"].estimate


def table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds with their standard deviations; losses in nats a token on rows held out."""
    head = ("way", "seeds", "average loss", "backward transfer", *LIBRARIES, "general questions")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for way in (*WAYS, JOINT):
        mine = [run for run in runs if run["way"] == way]
        if mine:
            last = [[run["losses"][n][-1] for run in mine] for n in range(len(LIBRARIES))]
            moved = [run["backward_transfer"]["estimate"] for run in mine if run["backward_transfer"]]
            cells = [_mean([run["average_loss"] for run in mine]), _mean(moved), *map(_mean, last)]
            cells.append(_mean([run["general"][-1] for run in mine]))
            lines.append(f"| {way} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(runs: list[dict[str, Any]]) -> str:
    """How far each stage's loss rose after it was learned, a line for each way, means over seeds."""
    ways = [way for way in WAYS if any(run["way"] == way for run in runs)]
    rises, names = [], []
    for way in ways:
        mine = [run["losses"] for run in runs if run["way"] == way]
        for number, library in enumerate(LIBRARIES):
            rises.append([_rise(mine, number, after) for after in range(len(LIBRARIES))])
            names.append(f"{way}: {library}")
    return heat_map(rises, names, list(LIBRARIES))


def _rise(losses: list[list[list[float | None]]], number: int, after: int) -> float | None:
    found = [(matrix[number][after], matrix[number][number]) for matrix in losses]
    rises = [now - then for now, then in found if now is not None and then is not None]
    return statistics.mean(rises) if rises else None


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _keep(done: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.out:
        settings = {"steps": arguments.steps, "rows": arguments.rows, "model": arguments.model, **SETTINGS}
        value = {"settings": settings, "ways": WAYS, "runs": done["runs"], "table": table(done["runs"]).splitlines()}
        arguments.out.write_text(json.dumps(value, indent=1) + "\n")
        arguments.out.with_suffix(".svg").write_text(picture(done["runs"]))


def _silent(_: object) -> None:
    return None


if __name__ == "__main__":
    main()
