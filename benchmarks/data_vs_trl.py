"""Preparing a data set, ours against TRL's SFTTrainer: rows per second and peak memory, on the same rows.

Both read a JSON Lines file of conversations, render and tokenise them, mask all but the answers, and pack. Each side
runs in processes of its own, in turn, `--rounds` times; imports and, for TRL, the building of a tiny model are not
timed. That the results are equal is checked: one hash an example, over its ids and its loss mask.

    uv run python benchmarks/data_vs_trl.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
from alpaca_like import write

from backpropagate.models import locate

HERE = Path(__file__).parent
OURS = ("backpropagate", HERE / "data_ours.py", None)
THEIRS = [("TRL", HERE / "data_trl.py", None), ("TRL, dataset_num_proc=2", HERE / "data_trl.py", 2)]


class Memory(threading.Thread):
    """The most that a process and its children had at once: what is theirs alone, and shared pages by share (PSS)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.done = psutil.Process(pid), 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            self.peak = max(self.peak, sum(map(_pss, _family(self.process))))


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def measure(script: Path, arguments: dict) -> dict:
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, str(script), json.dumps(arguments)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    memory = Memory(process.pid)
    memory.start()
    out, err = process.communicate()
    memory.done.set()
    if process.returncode:
        raise SystemExit(err[-3000:])
    found = json.loads(out.strip().splitlines()[-1]) | {"peak": memory.peak}
    print(f"  {found['examples'] / found['seconds']:9.0f} rows/s  {memory.peak / 2**20:6.0f} MiB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--length", type=int, default=2048, help="tokens in a packed row")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    model = str(locate.locate("smollm2-135m", lambda progress: None))
    runs: dict[str, list[dict]] = {name: [] for name, _, _ in (OURS, *THEIRS)}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        write(data, options.rows)
        for turn in range(options.rounds):
            for name, script, processes in (OURS, *THEIRS):
                print(f"round {turn + 1}, {name}", flush=True)
                arguments = {"model": model, "data": str(data), "length": options.length, "processes": processes}
                runs[name].append(measure(script, arguments))
    report(runs, options)


def report(runs: dict[str, list[dict]], options: argparse.Namespace) -> None:
    digests = {found["digest"] for each in runs.values() for found in each}
    if len(digests) != 1:
        raise SystemExit("ids or masks differ; the speeds compare nothing.")
    rate = {name: statistics.median(one["examples"] / one["seconds"] for one in found) for name, found in runs.items()}
    peak = {name: statistics.median(one["peak"] for one in found) for name, found in runs.items()}
    fastest = max((name for name, _, _ in THEIRS), key=rate.__getitem__)
    smallest = min((name for name, _, _ in THEIRS), key=peak.__getitem__)
    print(f"\n{options.rows} rows, ids and masks equal")
    print(f"{'':24} {'rows/s':>8} {'× best TRL':>12} {'peak MiB':>10} {'× least TRL':>13} {'packed rows':>13}")
    for name, found in runs.items():
        print(
            f"{name:24} {rate[name]:8.0f} {rate[name] / rate[fastest]:12.2f} {peak[name] / 2**20:10.0f}"
            f" {peak[name] / peak[smallest]:13.2f} {found[0]['packed']:13}"
        )
    if options.out:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        value = {"machine": machine, "rows": options.rows, "rate": rate, "peak_bytes": peak, "runs": runs}
        options.out.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
