"""How long it takes to start: from enter to the first step of `backprop train`, and what each layer of that costs.

Each measure is a process of its own, with bytecode compiled beforehand and without any (as where Python may not write
it), the shortest of `--rounds`. Processor seconds are given beside those on the clock: other work on the machine
stretches the clock and hardly the former. `--source` measures another checkout's packages by this one's dependencies.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bp_core import processor
from bp_core.backends import find

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "quickstart.jsonl"
# Python statements whose processes are measured to their end.
IMPORTS = {
    "import backpropagate": "import backpropagate",
    "import of the rail": "import bp_cuda.rail",
    "backprop --help": "import sys; sys.argv[1:] = ['--help']; from backpropagate.__main__ import main; main()",
}
TRAIN = "backprop train, to the first step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", type=Path, default=ROOT, help="a checkout of this project")
    parser.add_argument("--name", default="after", help="what the numbers are called in the file")
    parser.add_argument("--out", type=Path, help="write the result into this JSON file, beside what is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.source.resolve(), options.rounds)
    if options.out:
        known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
        text = json.dumps(known | {options.name: found}, indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")


def measure(folder: Path, source: Path, rounds: int) -> dict[str, object]:
    probe = find("cpu").probe()
    found: dict[str, object] = {
        "processor": processor.name(),
        "instructions": probe.instructions,
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "rounds": rounds,
    }
    for bytecode in ("compiled", "not compiled"):
        variables = environment(folder, source, bytecode)
        if bytecode == "compiled":  # by a start that may write, which unpacks the model too
            first_step(folder / "output", variables | {"PYTHONDONTWRITEBYTECODE": ""})
        found[bytecode] = starts(folder, variables, bytecode, rounds)
    return found


def starts(folder: Path, variables: dict[str, str], bytecode: str, rounds: int) -> dict[str, dict[str, float]]:
    """Each measure in one environment."""
    found = {name: shortest(name, bytecode, partial(ended, code, variables), rounds) for name, code in IMPORTS.items()}
    return found | {TRAIN: shortest(TRAIN, bytecode, partial(first_step, folder / "output", variables), rounds)}


def environment(folder: Path, source: Path, bytecode: str) -> dict[str, str]:
    packages = (str(path) for path in sorted(source.glob("packages/*/src")))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(packages),
        "PYTHONPYCACHEPREFIX": str(folder / bytecode),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BACKPROPAGATE_HOME": str(folder / "home"),
        "BACKPROPAGATE_TRAIN_REPORT_TO": "none",
        "HF_HUB_OFFLINE": "1",
    }


def shortest(name: str, bytecode: str, work: Callable[[], tuple[float, float]], rounds: int) -> dict[str, float]:
    """Of each kind of seconds the fewest."""
    times = [work() for _ in range(rounds)]
    clock, used = (round(min(kind), 2) for kind in zip(*times, strict=True))
    print(f"{name:40} {bytecode:14} {clock:6.2f} s, processor {used:6.2f} s", flush=True)
    return {"seconds": clock, "processor_seconds": used}


def ended(code: str, variables: dict[str, str]) -> tuple[float, float]:
    """Seconds on the clock and of the processor until a process has ended."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.DEVNULL)
    return waited(process, began)


def first_step(output: Path, variables: dict[str, str]) -> tuple[float, float]:
    """The same, until the loop of `backprop train` has begun; then the process is killed."""
    before = set(output.glob("runs/*/events.jsonl"))
    command = [sys.executable, "-m", "backpropagate", "train", "--data", str(DATA), "--steps", "9"]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--output", str(output)], env=variables, stderr=subprocess.DEVNULL)
    while not any("Started" in path.read_text() for path in set(output.glob("runs/*/events.jsonl")) - before):
        assert process.poll() is None, "the training ended before it began"
        time.sleep(0.02)
    process.kill()
    return waited(process, began)


def waited(process: subprocess.Popen[bytes], began: float) -> tuple[float, float]:
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0  # it has been waited for
    return time.monotonic() - began, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
