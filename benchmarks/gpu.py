"""The suite for a graphics card: tests, memory, a small card, speed and float8; at most 8 minutes, no downloads.

python benchmarks/gpu.py [--dry] [--only PART …] [--output FILE]

`--dry` runs all of it on the processor with tiny models, to see that it works; its numbers say nothing, and nothing is
written. Needs Python 3.12, torch, transformers, peft, accelerate, numpy, safetensors, psutil, pytest, hypothesis, typer
and rich. To bring along to a machine without a network, within 64 MiB together: the wheels of bitsandbytes (modes qlora
and lora-8bit, 8-bit moments), gguf, ml-dtypes and nvidia-ml-py; with float8 also torchao.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "gpu.json"
PARTS = ("tests", "memory", "small_card", "speed", "float8")
MINUTES, DRY_MINUTES = 8.0, 60.0  # in all; the processor may be busy, and takes what it takes
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|tests? collected|deselected)")


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--dry", action="store_true", help="on the processor, with tiny models")
    words.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    words.add_argument("--output", type=Path, default=RESULTS)
    words.add_argument("--part", choices=PARTS[1:], help=argparse.SUPPRESS)
    chosen = words.parse_args()
    if chosen.part:
        print(json.dumps(measured(chosen.part, chosen.dry)))
        return 0
    ends = time.monotonic() + 60 * (DRY_MINUTES if chosen.dry else MINUTES)
    found: dict[str, Any] = {"machine": machine(chosen.dry)}
    for name in chosen.only:
        began = time.monotonic()
        found[name] = part(name, chosen.dry, max(1.0, ends - began))
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    text = json.dumps(found, indent=1)
    print(text)
    if not chosen.dry:
        chosen.output.write_text(text + "\n", encoding="utf-8")
    return int(any("failed" in found[name] for name in chosen.only))


def machine(dry: bool) -> dict[str, Any]:
    """The card, its driver, and the versions."""
    sys.path.insert(0, str(ROOT / "packages" / "backpropagate" / "src"))
    driver = import_module("backpropagate.doctor.nvidia_smi").read_driver()
    cards = [] if driver is None or dry else [f"{card.name}, driver {card.driver}" for card in driver.cards]
    return {"cards": cards, "python": sys.version.split()[0], **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def part(name: str, dry: bool, seconds: float) -> Any:
    """One part, in a process of its own: an error or a lack of time costs no other part. {"failed": why} for these."""
    if name == "tests":
        command = ["-m", "pytest", "-n", "0", "-q", "-m", "gpu", *(["--collect-only"] if dry else [])]
    else:
        command = [__file__, "--part", name, *(["--dry"] if dry else [])]
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {seconds:.0f} seconds"}
    if name == "tests":
        counts = {what: int(number) for number, what in _COUNTS.findall(done.stdout)}
        if dry:
            counts = {"selected": counts.get("tests collected", 0) - counts.get("deselected", 0)}
        failed = {"failed": done.stdout[-2000:]} if done.returncode else {}
        return counts | failed
    if done.returncode:
        return {"failed": done.stderr.strip()[-2000:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(name: str, dry: bool) -> Any:
    """What a part measures, in this process."""
    parts = import_module("gpu_parts")
    return getattr(parts, name)(parts.Bench(dry))


if __name__ == "__main__":
    sys.exit(main())
