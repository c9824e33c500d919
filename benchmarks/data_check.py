"""`data check` on many rows: rows per second and peak memory, without and with near duplicates, each in a process.

The rows are made here (chat rows of Alpaca's size; one in a hundred repeats, one in a thousand has a fault), so that
anyone gets the same file. Without --model, rows are not tokenised.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

FAULTS = ["", "jane.doe@bakery.test", "it\u00e2\u20ac\u2122s", "\u200b", " <|im_end|>", "\x07"]
SIDE = """
import json, resource, sys, time
from bp_data.check.config import CheckConfig
from bp_data import ChatTokenizer
from bp_data.check import check
file, near, model = json.loads(sys.argv[1])
tokenizer = ChatTokenizer.open(model) if model else None
began, cpu = time.perf_counter(), time.process_time()
report = check(file, CheckConfig(model=model, near=near), tokenizer)
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
found = report.findings.counts.total()
print(json.dumps({"rows": report.rows, "seconds": seconds, "cpu": cpu, "peak": peak, "found": found}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", help="a folder with a tokenizer: also render and tokenise")
    parser.add_argument("--near", action="store_true", help="also measure with near duplicates")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write(file, options.rows)
        print(f"{options.rows} rows, {file.stat().st_size / 1e6:.0f} MB")
        for near in (False, True)[: 1 + options.near]:
            words = [sys.executable, "-c", SIDE, json.dumps([str(file), near, options.model])]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            print(
                f"{'with' if near else 'without'} near duplicates: {found['rows'] / found['seconds']:8.0f} rows/s"
                f" ({found['rows'] / found['cpu']:.0f} a second of processor time)"
                f"  {found['peak'] / 1e6:6.0f} MB  {found['found']} findings",
                flush=True,
            )


def write(file: Path, rows: int) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    last = ""
    with file.open("w", encoding="utf-8") as target:
        for number in range(rows):
            if number % 100 != 99:
                fault = FAULTS[number // 1000 % len(FAULTS)] if number % 1000 == 0 else ""
                question = " ".join(draw.choices(words, k=draw.randint(8, 30)))
                answer = " ".join(draw.choices(words, k=draw.randint(10, 90)))
                turns = [{"role": "user", "content": question + "?"}, {"role": "assistant", "content": answer + fault}]
                last = json.dumps({"messages": turns}, ensure_ascii=False) + "\n"
            target.write(last)


if __name__ == "__main__":
    main()
