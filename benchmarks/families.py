"""What every family loses in every format: tiny random models, our files in llama.cpp against transformers in float32.

For each family: whether each tensor of our f16 file is the one llama.cpp's own converter writes (by the reference that
the tests hold, packages/bp-export/tests/reference.json), and the mean Kullback–Leibler divergence in nats per token of
each format over 100 random tokens. Random weights leave flat answers, so quantising costs less or more than on a
trained model: the numbers compare families and find mistakes, they do not tell how good a format is. Two minutes.

    uv run python benchmarks/families.py --out benchmarks/results/families.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "packages/bp-export/tests"
sys.path.insert(0, str(TESTS))

import reference  # noqa: E402 - the reference's own summary of a file
import tiny_families  # noqa: E402

from bp_export import Engine, quantize  # noqa: E402
from bp_export.gguf import vocabulary  # noqa: E402
from bp_export.gguf.convert import Converter  # noqa: E402
from bp_export.proof.divergence import Divergence  # noqa: E402
from bp_export.weights.merge import open_base  # noqa: E402

DIRECT = ("f16", "bf16", "q8_0")
QUANTISED = ("q6_k", "q5_k_m", "q4_k_m")
TOKENS = [int(number) for number in np.random.default_rng(0).integers(300, 480, 100)]
ROUNDED = ("rope_freqs.weight", "ssm_a")  # equal but for the last bit: numpy's exp and pow are not torch's


def convert(folder: Path, type_: str, target: Path) -> Path:
    converter = Converter(open_base(folder), folder, type_)
    converter.write(target, vocabulary.read(folder, converter.vocabulary_size), folder.name)
    return target


def truth(folder: Path) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


def divergence(wanted: np.ndarray, file: Path) -> float:
    apart = Divergence()
    with Engine(file, context=256, gpu=False) as engine:
        apart.add(wanted, engine.logits(TOKENS))
    return apart.mean


def equal_tensors(file: Path, wanted: dict[str, list[object]]) -> int:
    """How many of llama.cpp's tensors ours has too, with the same type, shape and bytes."""
    found = reference.summary(file)["tensors"]
    told = {name: 2 if name.endswith(ROUNDED) else 3 for name in wanted}
    return sum(name in found and found[name][: told[name]] == wanted[name][: told[name]] for name in wanted)


def row(name: str, folder: Path, known: dict[str, dict[str, dict[str, list[object]]]]) -> dict[str, object]:
    base = tiny_families.save(name, folder / name)
    wanted = truth(base)
    files = {type_: convert(base, type_, folder / f"{type_}.gguf") for type_ in DIRECT}
    for type_ in QUANTISED:
        files[type_] = folder / f"{type_}.gguf"
        quantize(files["f16"], files[type_], type_)
    theirs = known[f"{name} f16"]["tensors"]
    kl = {type_: float(f"{divergence(wanted, file):.2e}") for type_, file in files.items()}
    return {"tensors": len(theirs), "equal": equal_tensors(files["f16"], theirs), "kl": kl}


def table(rows: dict[str, dict[str, object]]) -> str:
    formats = (*DIRECT, *QUANTISED)
    lines = [f"| family | tensors equal | {' | '.join(formats)} |", "|---" * (len(formats) + 2) + "|"]
    for name, one in rows.items():
        kl = one["kl"]
        assert isinstance(kl, dict)
        cells = " | ".join(f"{kl[type_]:.1e}" for type_ in formats)
        lines.append(f"| {name} | {one['equal']} of {one['tensors']} | {cells} |")
    return "\n".join(lines)


def measure(say: Callable[[str], None]) -> dict[str, dict[str, object]]:
    known = json.loads((TESTS / "reference.json").read_text(encoding="utf-8"))
    rows = {}
    for name in tiny_families.FAMILIES:
        if tiny_families.FAMILIES[name].inside:  # the text part of a model that also sees: its family is there already
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row(name, Path(folder), known)
        say(f"{name}: {rows[name]}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    rows = measure(lambda text: print(text, file=sys.stderr))
    print(table(rows))
    if wanted.out:
        wanted.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
