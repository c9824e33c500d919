"""Every way to train on the CPU, side by side: trained tokens per second, peak memory and loss, in one run.

Each mode runs in its own process, in turn, `--rounds` times; the first two steps of a run are warm-up and not counted.
A trained token is one that carries loss. Peak memory is the process's, loading included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from sft_vs_trl import OURS, WARM_UP, machine, measure

from backpropagate.models import locate

MODES = {
    "lora": {},
    "lora, rslora, rank 64": {"rslora": True, "rank": 64},
    "lora, dora": {"dora": True},
    "lora, pissa": {"init": "pissa"},
    "qlora": {"mode": "qlora"},
    "lora-8bit": {"mode": "lora-8bit"},
    "full, float32 weights": {"mode": "full"},
    "full, bfloat16 weights": {"mode": "full", "dtype": "bfloat16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="examples/quickstart.jsonl", help="the examples, in any format")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(MODES), default=list(MODES), help="modes to run, by name")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    model = str(locate.locate("smollm2-135m", lambda progress: None))
    common = {
        "model": model, "data": str(Path(options.data).resolve()), "batch": 4, "length": 512, "steps": options.steps,
        "samples": None, "warm_up": WARM_UP, "dtype": "auto",
    }  # fmt: skip
    runs: dict[str, list[dict]] = {name: [] for name in options.only}
    for turn in range(options.rounds):
        for name in runs:
            print(f"round {turn + 1}, {name}", flush=True)
            runs[name].append(measure(sys.executable, OURS, common | {"settings": MODES[name]}))
    report(runs, common, options.out)


def report(runs: dict[str, list[dict]], common: dict, out: Path | None) -> None:
    first = next(iter(runs))
    rate = {name: statistics.median(run["rate"] for run in found) for name, found in runs.items()}
    peak = {name: statistics.median(run["peak"] for run in found) for name, found in runs.items()}
    print(f"\n{'':24} trained tokens/s   peak GiB   × {first}'s   loss of the steps counted")
    for name, found in runs.items():
        losses = found[0]["losses"]
        print(
            f"{name:24} {rate[name]:16.1f} {peak[name] / 2**30:10.2f} {peak[name] / peak[first]:10.2f}"
            f"      {losses[0]:.3f} → {losses[-1]:.3f}"
        )
    if out:
        shape = {key: common[key] for key in ("batch", "length", "steps")}
        value = {"machine": machine(), "shape": shape, "rate": rate, "peak_bytes": peak, "runs": runs}
        out.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
