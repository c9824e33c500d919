"""LoRA SFT on the CPU, ours against TRL's SFTTrainer: trained tokens per second and peak memory, in one run.

Each side runs in its own process, in turn, `--rounds` times; the first two steps of a run are warm-up and not counted.
A trained token is one that carries loss, counted the same way for both.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import alpaca_like

from backpropagate.models import locate

WARM_UP = 2
HERE = Path(__file__).parent
OURS, THEIRS = HERE / "sft_ours.py", HERE / "sft_trl.py"


def measure(python: str, side: Path, arguments: dict) -> dict:
    done = subprocess.run([python, str(side), json.dumps(arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    rate = found["targets"] / found["seconds"]
    gib = found["peak"] / 2**30
    print(f"  {rate:6.1f} trained tokens/s  {gib:.2f} GiB  loss {found['losses'][-1]:.3f}", flush=True)
    return {"rate": rate, "peak": found["peak"], "losses": found["losses"]}


def machine() -> dict[str, str]:
    return {"processor": platform.processor() or platform.machine(), "system": platform.system()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Alpaca rows: a JSON array; default: generated rows of their lengths")
    parser.add_argument("--trl-python", default=sys.executable, help="the interpreter of another environment with trl")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, options.data or generated(Path(folder, "rows.json"), options.samples))


def generated(path: Path, count: int) -> Path:
    """Rows with the lengths of Alpaca's, in Alpaca's format."""
    pairs = ((turns[0]["content"], turns[1]["content"]) for turns in alpaca_like.conversations(count, 0))
    path.write_text(json.dumps([{"instruction": asked, "output": answered} for asked, answered in pairs]))
    return path


def compare(options: argparse.Namespace, data: Path) -> None:
    model = str(locate.locate("smollm2-135m", lambda progress: None))
    common = {
        "model": model, "data": str(data.resolve()), "batch": 4, "length": 512, "steps": options.steps,
        "samples": options.samples, "warm_up": WARM_UP, "extra": {},
    }  # fmt: skip
    variants = {
        "backpropagate, float32": (sys.executable, OURS, {"dtype": "float32"}),
        "backpropagate, bfloat16": (sys.executable, OURS, {"dtype": "bfloat16"}),
        "TRL, float32": (options.trl_python, THEIRS, {"dtype": "float32"}),
        "TRL, bfloat16 autocast": (options.trl_python, THEIRS, {"dtype": "bfloat16"}),
        "TRL, bfloat16 autocast, padding-free": (
            options.trl_python, THEIRS, {"dtype": "bfloat16", "extra": {"padding_free": True, "max_length": None}},
        ),
    }  # fmt: skip
    runs: dict[str, list[dict]] = {name: [] for name in variants}
    for turn in range(options.rounds):
        for name, (python, side, changes) in variants.items():
            print(f"round {turn + 1}, {name}", flush=True)
            runs[name].append(measure(python, side, common | changes))
    report(runs, common, options.out)


def report(runs: dict[str, list[dict]], common: dict, out: Path | None) -> None:
    rate = {name: statistics.median(run["rate"] for run in found) for name, found in runs.items()}
    peak = {name: statistics.median(run["peak"] for run in found) for name, found in runs.items()}
    theirs = max((name for name in rate if name.startswith("TRL")), key=rate.get)
    print(f"\n{'':38} trained tokens/s   × TRL's best   peak GiB   × TRL's")
    for name in runs:
        print(
            f"{name:38} {rate[name]:10.1f} {rate[name] / rate[theirs]:16.2f}"
            f" {peak[name] / 2**30:12.2f} {peak[name] / peak[theirs]:9.2f}"
        )
    if out:
        shape = {key: common[key] for key in ("batch", "length", "steps", "samples")}
        value = {"machine": machine(), "shape": shape, "rate": rate, "peak_bytes": peak, "runs": runs}
        out.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
