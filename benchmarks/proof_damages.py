"""What damage the proof of an export notices: each kind of damage, weaker and weaker, until nothing sees it.

A damaged weight is W + strength × (W damaged whole − W). For each kind
two smallest strengths are found: that which what the model computes shows (divergence, loss, choices, adapter's
strength), and that which any check shows, the weights' own included. Damage to the vocabulary, the end of turn and the
template is whole or not there. Tiny random models, trained a little and by heart.

    uv run python benchmarks/proof_damages.py --out benchmarks/results/proof_damages.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "packages/bp-export/tests"))

import numpy as np
import tiny_families
from trained_adapters import TrainedAdapter, Training, train

from bp_core.rail import Job
from bp_cuda.rail import CpuRail
from bp_export.gguf.convert import Converter
from bp_export.gguf.vocabulary import Vocabulary
from bp_export.gguf.vocabulary import read as read_vocabulary
from bp_export.parity import Check
from bp_export.proof.prover import Prover
from bp_export.proof.trained_model import TrainedModel
from bp_export.weights import adapter as lora
from bp_export.weights.merge import MergedWeights, open_base
from bp_export.weights.safetensors_file import Source

DATA = Path("examples", "quickstart.jsonl")
FAMILY = "llama31"
STRENGTHS = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)
OF_THE_FILE = ("f16 tensors", "vocabulary of the file")
HEAD = 64  # rows of a head of the tiny models


@dataclass(frozen=True)
class Blend:
    """Weights on the way from `right` to `wrong`; strength 0 is right."""

    right: Source
    wrong: Source
    strength: float

    def names(self) -> list[str]:
        return self.right.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.right.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.right.dtype(name)

    def array(self, name: str) -> np.ndarray:
        right = self.right.array(name).astype(np.float32)
        return right + np.float32(self.strength) * (self.wrong.array(name).astype(np.float32) - right)


@dataclass(frozen=True)
class Changed:
    """Weights of which those with `part` in their name are changed."""

    inner: Source
    part: str
    change: Callable[[np.ndarray], np.ndarray]

    def names(self) -> list[str]:
        return self.inner.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.inner.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.inner.dtype(name)

    def array(self, name: str) -> np.ndarray:
        value = self.inner.array(name)
        return self.change(value) if self.part in name else value


def swapped_heads(rows: np.ndarray) -> np.ndarray:
    heads = rows.reshape(-1, HEAD, rows.shape[1]).copy()
    heads[[0, 1]] = heads[[1, 0]]
    return heads.reshape(rows.shape)


def swapped_rows(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[[700, 701]] = rows[[701, 700]]
    return rows


def wrong_weights(base: Path, adapter: Path) -> dict[str, Source]:
    deltas = lora.read(adapter)
    merged = MergedWeights(base, deltas)
    doubled = {name: dataclasses.replace(delta, scale=2 * delta.scale) for name, delta in deltas.items()}
    one = next(name for name in deltas if "layers.1.self_attn.v_proj" in name)
    return {
        "adapter dropped": open_base(base),
        "alpha doubled": MergedWeights(base, doubled),
        "one layer's adapter left out": MergedWeights(base, {n: d for n, d in deltas.items() if "layers.1." not in n}),
        "one matrix's adapter left out": MergedWeights(base, {n: d for n, d in deltas.items() if n != one}),
        "alpha doubled in one matrix": MergedWeights(base, {**deltas, one: doubled[one]}),
        "one tensor transposed": Changed(merged, "layers.0.self_attn.o_proj", np.transpose),
        "one tensor zeroed": Changed(merged, "layers.1.self_attn.v_proj", np.zeros_like),
        "one head swapped": Changed(merged, "layers.1.self_attn.q_proj", swapped_heads),
        "one norm forgotten": Changed(merged, "layers.0.input_layernorm", np.ones_like),
        "two rows of the embedding swapped": Changed(merged, "embed_tokens", swapped_rows),
    }


def wrong_words(words: Vocabulary) -> dict[str, Vocabulary]:
    tokens = list(words.tokens)
    tokens[700], tokens[701] = tokens[701], tokens[700]
    return {
        "two tokens swapped in the vocabulary": dataclasses.replace(words, tokens=tokens),
        "another end of turn": dataclasses.replace(words, ids={**words.ids, "eos": 2}),
        "another template": dataclasses.replace(words, template=words.template + " "),
        "a first token that was not trained": dataclasses.replace(words, add_bos=not words.add_bos),
    }


@dataclass(frozen=True)
class Bench:
    """One trained model, and files made of it."""

    subject: TrainedModel
    words: Vocabulary
    place: Path

    def failures(self, source: Source, words: Vocabulary) -> list[Check]:
        Converter(source, self.subject.base).write(self.place, words, "damaged")
        prover = Prover(self.subject, "q8_0")  # so that the f16 file is only compared, not talked to
        prover.check_float(self.place)
        return prover.parity().failures


def rows_of(adapter: TrainedAdapter, base: Path, place: Path) -> Iterator[dict[str, Any]]:
    rail = CpuRail()
    rail.open(Job(base, adapter=adapter.folder, dtype="float32"))
    subject = TrainedModel.open(adapter.folder, base, reference=rail, samples=adapter.samples)
    words = read_vocabulary(base, subject.converter.vocabulary_size, subject.contract)
    bench = Bench(subject, words, place)
    right = subject.converter.source
    state = {"step": adapter.step, "loss": adapter.loss}
    yield {**state, "damage": "none", "refused": bool(bench.failures(right, words))}
    for name, wrong in wrong_weights(base, adapter.folder).items():
        yield {**state, "damage": name, **_smallest(bench, right, wrong)}
    for name, changed in wrong_words(words).items():
        found = [check.name for check in bench.failures(right, changed)]
        yield {**state, "damage": name, "refused": bool(found), "by": found}
    rail.close()


def _smallest(bench: Bench, right: Source, wrong: Source) -> dict[str, Any]:
    """The smallest strength that is refused, by what the model computes and by any check."""
    smallest: dict[str, float | None] = {"computed": None, "any": None}
    by: list[str] = []
    for strength in STRENGTHS:
        found = [check.name for check in bench.failures(Blend(right, wrong, strength), bench.words)]
        if strength == 1.0:
            by = found
        if not found:
            break
        smallest["any"] = strength
        if set(found) - set(OF_THE_FILE):
            smallest["computed"] = strength
    return {"refused": bool(by), "by": by, "smallest": smallest}


def figure(rows: list[Mapping[str, Any]]) -> str:
    """For each damage of weights the smallest strength noticed, on a scale of powers of ten, as SVG."""
    shown = [row for row in rows if "smallest" in row]
    left, width, line = 300, 360, 26
    height = line * len(shown) + 70
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {height}" font-family="sans-serif" '
        'font-size="13"><rect width="100%" height="100%" fill="white"/>'
    ]
    for power in range(4):
        x = left + width * power / 3
        parts.append(f'<line x1="{x}" y1="20" x2="{x}" y2="{height - 48}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{height - 32}" text-anchor="middle">{10.0 ** (power - 3):g}</text>')
    for number, row in enumerate(shown):
        y = 30 + line * number
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{row["damage"]}, step {row["step"]}</text>')
        for kind, colour, radius in (("computed", "#d9730d", 6), ("any", "#1f6feb", 4)):
            strength = row["smallest"][kind]
            if strength:
                x = left + width * (math.log10(strength) + 3) / 3
                parts.append(f'<circle cx="{x:.0f}" cy="{y}" r="{radius}" fill="{colour}"/>')
    legend = "smallest strength refused: orange by what the model computes, blue by any check"
    parts.append(f'<text x="{left}" y="{height - 10}">{legend}</text></svg>\n')
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file; the figure lies beside it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        base = tiny_families.save(FAMILY, Path(folder, "base"))
        training = Training(seed=1, rank=8, keep=(5, 60), rate=2e-3)
        for adapter in train(base, DATA, training, Path(folder)):
            for row in rows_of(adapter, base, Path(folder, "m.gguf")):
                found.append(row)
                print(json.dumps(row), flush=True)
    options.out.write_text(json.dumps({"family": FAMILY, "rows": found}, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".svg").write_text(figure(found), encoding="utf-8")
    right = [row["refused"] for row in found if row["damage"] == "none"]
    sys.exit(any(right) or not all(row["refused"] for row in found if row["damage"] != "none"))


if __name__ == "__main__":
    main()
