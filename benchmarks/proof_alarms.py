"""How often the proof refuses a right file: the export of at least 200 different adapters, each of which is right.

Runs differ in seed, rank, rail, kind of adapter and steps, from barely trained to known by heart, on SmolLM2-135M and
on tiny random models of several families. It goes on where it was interrupted, and exits 1 if a file was refused.

    uv run python benchmarks/proof_alarms.py --out benchmarks/results/proof_alarms.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the processor

sys.path.insert(0, str(Path(__file__).parents[1] / "packages/bp-export/tests"))

import tiny_families
from trained_adapters import TrainedAdapter, Training, train

from backpropagate.models.locate import locate
from bp_core.rail import Job
from bp_cuda.rail import CpuRail
from bp_export import quantize
from bp_export.gguf.convert import Converter
from bp_export.gguf.vocabulary import read as read_vocabulary
from bp_export.proof.prover import Prover
from bp_export.proof.trained_model import TrainedModel

DATA = Path("examples", "quickstart.jsonl")
FAMILIES = ("llama31", "qwen3", "gemma3", "phi4-mini", "mistral")
SMOL_STEPS = (1, 4, 12, 24, 48, 96)
TINY_STEPS = (1, 5, 30, 120)
MLX_STEPS = (1, 5, 20)  # on a processor this rail is slow
RANKS = (4, 8, 16, 64)


def trainings() -> Iterator[tuple[str, Training]]:
    """Each model with the runs that are made of it; a run gives an adapter for each of its kept steps."""
    for family in FAMILIES:
        for seed in range(1, 9):
            yield family, Training(seed, RANKS[seed % len(RANKS)], TINY_STEPS, rate=2e-3)
        yield family, Training(21, 8, TINY_STEPS, rate=2e-3, dora=True)
    for family in ("llama31", "qwen3", "gemma3"):
        yield family, Training(31, 8, MLX_STEPS, rate=2e-3, backend="mlx")
    for seed, rank in ((1, 16), (2, 8), (3, 4), (4, 64), (5, 16)):
        yield "smollm2-135m", Training(seed, rank, SMOL_STEPS)
    yield "smollm2-135m", Training(6, 16, SMOL_STEPS, dora=True)
    yield "smollm2-135m", Training(7, 16, SMOL_STEPS, mode="qlora")


def judge(model: Path, adapter: TrainedAdapter, quantization: str, folder: Path) -> dict[str, Any]:
    """Export and prove one adapter as `backprop export` does; what the proof measured."""
    began = time.perf_counter()
    rail = CpuRail()
    rail.open(Job(model, adapter=adapter.folder, dtype="float32"))
    try:
        subject = TrainedModel.open(adapter.folder, model, reference=rail, samples=adapter.samples)
        prover = Prover(subject, quantization)
        words = read_vocabulary(model, subject.converter.vocabulary_size, subject.contract)
        plain, final = folder / "f16.gguf", folder / "final.gguf"
        subject.converter.write(plain, words, "model")
        prover.check_float(plain)
        if quantization in ("bf16", "q8_0"):
            Converter(subject.converter.source, model, quantization).write(final, words, "model")
        else:
            quantize(plain, final, quantization)
        prover.check_final(final)
    finally:
        rail.close()
    parity = prover.parity()
    measured = {check.name: check.measured for check in parity.checks}
    notes = {check.name: check.note for check in parity.checks}
    moved = measured.get("training survived in the f16 file", {})
    return {
        **{name: value for name, value in asdict(adapter.training).items() if name != "keep"},
        "step": adapter.step,
        "loss": adapter.loss,
        "moved": moved.get("training moved the model by"),
        "strength": moved.get("strength"),
        "divergence": measured["f16 divergence"],
        "loss difference": measured["f16 loss"],
        "first choices": [measured["f16 first choices"], notes["f16 first choices"]],
        "adapter in each matrix": measured.get("adapter in each matrix"),
        "final": quantization,
        "final strength": measured.get("training survived in the final file"),
        "proven": parity.proven,
        "failures": [asdict(check) for check in parity.failures],
        "warnings": [check.name for check in parity.warnings],
        "seconds": round(time.perf_counter() - began, 1),
    }


def rows_of(model: str, training: Training, folder: Path) -> Iterator[dict[str, Any]]:
    place = locate(model, lambda _: None) if model == "smollm2-135m" else folder / model
    if model != "smollm2-135m" and not place.exists():
        tiny_families.save(model, place)
    quantization = "q4_k_m" if model == "smollm2-135m" else "q8_0"
    with tempfile.TemporaryDirectory() as runs:
        for adapter in train(place, DATA, training, Path(runs)):
            yield {"model": model, **judge(place, adapter, quantization, Path(runs))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file, one row for each adapter")
    parser.add_argument("--only", help="this model alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    done = {(row["model"], row["seed"]) for row in found}
    with tempfile.TemporaryDirectory() as folder:
        for model, training in trainings():
            if (model, training.seed) in done or options.only not in (None, model):
                continue
            found += list(rows_of(model, training, Path(folder)))
            text = json.dumps({"machine": platform.processor() or platform.machine(), "rows": found}, indent=1)
            options.out.write_text(text + "\n", encoding="utf-8")
            print(f"{model} seed {training.seed}: {len(found)} adapters, {wrong(found)} refused", flush=True)
    sys.exit(wrong(found) > 0)


def wrong(found: list[dict[str, Any]]) -> int:
    return sum(not row["proven"] for row in found)


if __name__ == "__main__":
    main()
