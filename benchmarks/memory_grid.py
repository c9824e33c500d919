"""The memory estimate held against traces of the real training step, over presets, ranks, lengths and devices.

uv run python benchmarks/memory_grid.py [--preset NAME …] [--output FILE]

Needs no card and no download; see memory_trace.py for how. Exits 1 when the estimate is worse than it may be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from memory_trace import trace
from transformers import CONFIG_MAPPING, PreTrainedConfig

from bp_core.config import FULL_LIMIT, TrainConfig
from bp_core.step_sizes import kept_weights
from bp_plan.architecture import architecture
from bp_plan.defaults import for_machine
from bp_plan.memory import GIB, estimate
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo, full_rows
from bp_plan.training_step import MemorySetup, MicroBatchSize

RESULTS = Path(__file__).parent / "results" / "memory_grid.json"
CARDS = (6, 8, 12, 16, 24, 32, 48, 80)  # GiB
MEDIAN, WORST = 0.05, 0.10
_HOST = ("smollm2-135m", "llama-3.2-1b")  # what one would train without a card


@dataclass(frozen=True)
class Cell:
    """One training step to trace. `twice`: in two micro-batches, so that gradients wait."""

    preset: str
    setup: MemorySetup
    lengths: tuple[int, ...]

    def traced(self) -> int:
        full = self.setup.mode == "full"
        adapter = {} if full else {"rank": self.setup.rank, "dropout": self.setup.dropout}
        config = TrainConfig(mode=self.setup.mode, optimizer=self.setup.optimizer, init=self.setup.init, **adapter)
        machine = for_machine(config, DeviceInfo(self.setup.device, None, "auto"))
        recipe, _ = resolve(machine, full_rows(8, sum(self.lengths)), {})
        recipe = replace(recipe, dtype=self.setup.dtype, activation_checkpointing=self.setup.recompute)
        card = self.setup.device == "cuda"
        return trace(_config(self.preset), recipe, list(self.lengths), card=card, twice=self.setup.accumulating)

    def row(self) -> dict[str, Any]:
        model, total = architecture(PRESETS[self.preset].config), sum(self.lengths)
        assert model
        weights = sum(map(kept_weights, self.lengths))
        batch = MicroBatchSize(total, total - len(self.lengths), max(self.lengths), weights)
        estimated, traced = estimate(model, self.setup, batch), self.traced()
        false = [card for card in CARDS if estimated.total <= card * GIB < traced + estimated.context]
        return {
            "preset": self.preset,
            **vars(self.setup),
            "lengths": self.lengths,
            "traced": traced,
            "estimated": estimated.tensors,
            "error": round(estimated.tensors / traced - 1, 4),
            "says_fits_but_does_not_gib": false,
        }


def cells(presets: list[str]) -> Iterator[Cell]:
    """Modes, ranks and lengths; every preset on a card, small ones on the host as well.

    Paged moments are traced as if they stayed on the card: where they lie is CUDA's business.
    """
    for preset in presets:
        shape = architecture(PRESETS[preset].config)
        # Layers of linear attention get one example at a time.
        several = (700,) if shape and shape.delta_net else (700, 300)
        for recompute in (False, True):
            card = MemorySetup("cuda", "bfloat16", 16, recompute=recompute)
            yield Cell(preset, card, (1024,))
            yield Cell(preset, card, (8192,))
            yield Cell(preset, replace(card, rank=256, accumulating=True), several)
            for mode in ("qlora", "lora-8bit"):
                yield Cell(preset, replace(card, mode=mode), (1024,))
                yield Cell(preset, replace(card, mode=mode, accumulating=True), (8192,))
            if shape and shape.parameters <= FULL_LIMIT:
                yield Cell(preset, replace(card, mode="full", optimizer="adamw-8bit"), (1024,))
                yield Cell(preset, replace(card, mode="full", accumulating=True), (8192,))
            for dtype in ("bfloat16", "float32") if preset in _HOST else ():
                host = replace(card, device="cpu", dtype=dtype)
                yield Cell(preset, host, (512, 256, 256))
                yield Cell(preset, host, (2048,))
                yield Cell(preset, host, (1024, 700, 300))
                yield Cell(preset, replace(host, dropout=0.1, accumulating=True), (512,))
                yield Cell(preset, replace(host, mode="qlora"), (512, 256, 256))
                yield Cell(preset, replace(host, mode="lora-8bit"), (512, 256, 256))
            for dtype in ("bfloat16", "float32", "auto") if preset in _HOST else ():
                yield Cell(preset, replace(card, device="cpu", mode="full", dtype=dtype), (512, 256, 256))
                yield Cell(preset, replace(card, device="cpu", mode="full", dtype=dtype), (2048,))


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__)
    known = [name for name, preset in PRESETS.items() if (found := architecture(preset.config)) and found.known]
    words.add_argument("--preset", nargs="+", choices=known, default=known)
    words.add_argument("--output", type=Path, default=RESULTS)
    chosen = words.parse_args()
    summary: dict[str, Any] = {}
    for preset in chosen.preset:
        rows = []
        for cell in cells([preset]):
            rows.append(cell.row())
            print(_line(rows[-1]), flush=True)
        summary = _keep(chosen.output, preset, rows)
    print("{cells} steps: median error {median:.1%}, worst {worst:.1%}, wrongly said to fit: {false}".format(**summary))
    return int(summary["median"] > MEDIAN or summary["worst"] > WORST or summary["false"] > 0)


def _keep(path: Path, preset: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Put a preset's rows in the place of its earlier ones; a summary of all."""
    known = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    kept = [row for row in known if row["preset"] != preset] + rows
    errors = sorted(abs(row["error"]) for row in kept)
    false = sum(len(row["says_fits_but_does_not_gib"]) for row in kept)
    summary = {"cells": len(kept), "median": median(errors), "worst": errors[-1], "false": false}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"summary": summary, "rows": kept}, indent=1) + "\n", encoding="utf-8")
    return summary


def _config(preset: str) -> PreTrainedConfig:
    values = dict(PRESETS[preset].config)
    return CONFIG_MAPPING[values.pop("model_type")](**values, pad_token_id=None)


def _line(row: dict[str, Any]) -> str:
    how = f"{row['mode']} {row['device']} {row['dtype']} rank {row['rank']}{' recompute' if row['recompute'] else ''}"
    tokens = "+".join(map(str, row["lengths"])) + (" twice" if row["accumulating"] else "")
    sizes = f"traced {row['traced'] / GIB:7.2f} GiB, estimated {row['estimated'] / GIB:7.2f}"
    return f"{row['preset']:18} {how:44} {tokens:14} {sizes}, error {row['error']:+.1%}"


if __name__ == "__main__":
    sys.exit(main())
