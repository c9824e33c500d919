"""Training on the CPU with the machine to itself and beside busy processes, by how OpenMP's threads wait.

Torch's threads spin while they wait for each other, which is fast alone and slow where another process wants the same
core. Each way to wait is a set of environment variables of the training process; each is measured quiet and busy, in
turn, `--rounds` times. A busy process is one that counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import sft_vs_trl

from backpropagate.models import locate
from bp_core import processor

WAYS = {
    "as torch comes": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1000 times": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000 times": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000 times": {"GOMP_SPINCOUNT": "100000"},
    "one thread fewer": {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--beside", type=int, default=1, help="how many busy processes")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {way: {"quiet": [], "busy": []} for way in options.ways}
    with tempfile.TemporaryDirectory() as folder:
        data = sft_vs_trl.generated(Path(folder, "rows.json"), 100)
        for _ in range(options.rounds):
            for way in options.ways:
                for name, count in (("quiet", 0), ("busy", options.beside)):
                    print(f"{way}, {name}", flush=True)
                    with busy(count):
                        found[way][name].append(rate(data, way, options))
    report(found)
    if options.out:
        machine = {"processor": processor.name(), "processors": os.cpu_count(), "beside": options.beside}
        result = machine | {"dtype": options.dtype, "trained_tokens_per_second": found}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def rate(data: Path, way: str, options: argparse.Namespace) -> float:
    """Trained tokens a second of a training process that waits this way."""
    arguments = {
        "model": str(locate.locate("smollm2-135m", lambda progress: None)), "data": str(data), "batch": 4,
        "length": 512, "steps": options.steps, "samples": 100, "warm_up": sft_vs_trl.WARM_UP, "dtype": options.dtype,
    }  # fmt: skip
    measured = sft_vs_trl.measure(sys.executable, sft_vs_trl.OURS, arguments, os.environ | WAYS[way])
    speed: float = measured["rate"]
    return speed


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that use a core each."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def report(found: dict[str, dict[str, list[float]]]) -> None:
    """A table of medians, by the quiet rate of the first way."""
    medians = {way: {name: median(rates) for name, rates in both.items()} for way, both in found.items()}
    first = next(iter(medians.values()))["quiet"]
    print(f"\n{'':20}{'quiet':>8}{'× first':>9}{'busy':>8}{'× first quiet':>15}")
    for way, both in medians.items():
        quiet, beside = both["quiet"], both["busy"]
        print(f"{way:20}{quiet:8.1f}{quiet / first:9.2f}{beside:8.1f}{beside / first:15.2f}")


if __name__ == "__main__":
    main()
