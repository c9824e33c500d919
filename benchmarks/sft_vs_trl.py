"""LoRA SFT on the CPU, ours against TRL's SFTTrainer: trained tokens per second and peak memory, in one run.

Each side runs in its own process, in turn, `--rounds` times; the first two steps of a run are warm-up and not counted.
A trained token is one that carries loss, counted the same way for both. The sides shuffle differently, so in a few
steps one may get rows with longer answers: they are compared by all tokens that they compute, padding aside. With
`--processors native,avx2` all of it is done twice: on this processor as it is, and as on one with AVX2 alone. Each has
its roofline: the rate of torch's own matrix products in the same run, of which a step's products (two forward and two
backward FLOP for each weight and token; the vocabulary's for trained tokens only) are a share. With `--before FOLDER`
the packages of another checkout of this project are a third side. `--shape` takes other work than Alpaca's rows:
packed rows of 2048 tokens, rows of one long example, ORPO, KTO. LLaMA-Factory in an environment of its own is a second
peer: `--llama-factory-python`.
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
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import alpaca_like

from backpropagate.models import locate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import processors

from bp_core import processor

WARM_UP = 2
# What is trained, by name: what our side and TRL's are told beside rows, model and format.
SHAPES: dict[str, dict] = {
    "sft": {"batch": 4, "length": 512, "method": "sft"},
    "packed": {"batch": 1, "length": 2048, "method": "sft", "settings": {"packing": True}},
    "long": {"batch": 1, "length": 2048, "method": "sft"},
    "orpo": {"batch": 4, "length": 512, "method": "orpo", "settings": {"method": "orpo"}},
    "kto": {"batch": 4, "length": 512, "method": "kto", "settings": {"method": "kto"}},
}
HERE = Path(__file__).parent
OURS, THEIRS, ROOFLINE = HERE / "sft_ours.py", HERE / "sft_trl.py", HERE / "roofline.py"
LLAMA_FACTORY = HERE / "sft_llamafactory.py"
# TRL's ways for each shape, by what is added to their name. Without padding it takes no limit of length.
_TRL_SETTINGS: dict[str, dict[str, dict]] = {
    "sft": {"": {}, ", padding-free": {"padding_free": True, "max_length": None}},
    "packed": {"": {"packing": True}},
    "long": {"": {}},
    "orpo": {"": {}},
    "kto": {"": {}},
}
_LLAMA_FACTORY_SETTINGS: dict[str, dict[str, dict]] = {
    "sft": {"": {}, ", packed": {"packing": True, "neat_packing": True}},
    "packed": {", packed": {"packing": True, "neat_packing": True}},
    "long": {"": {}},
}
_LONG_ROW = 1000  # words of the answers that are joined to one, at least: 1400 tokens and more
BODY, VOCABULARY = 106_168_320, 28_311_552  # weights of SmolLM2-135M's layers, and of its output


def measure(python: str, side: Path, arguments: dict, environment: dict[str, str]) -> dict:
    command = [python, str(side), json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    rate = found["targets"] / found["seconds"]
    gib = found["peak"] / 2**30
    print(f"  {rate:6.1f} trained tokens/s  {gib:.2f} GiB  loss {found['losses'][-1]:.3f}", flush=True)
    flop = 4 * (BODY * found["tokens"] + VOCABULARY * found["targets"])
    speeds = {"rate": rate, "tokens": found["tokens"] / found["seconds"], "flops": flop / found["seconds"]}
    return speeds | {"peak": found["peak"], "losses": found["losses"]}


def packages_of(changes: dict) -> dict[str, str]:
    """The variables with which another checkout's packages are imported, where one is asked for."""
    if "source" not in changes:
        return {}
    return {"PYTHONPATH": os.pathsep.join(str(path) for path in sorted(Path(changes["source"]).glob("packages/*/src")))}


def roofline(environment: dict[str, str]) -> dict[str, float]:
    """FLOP a second of torch's matrix products, by number format."""
    command = [sys.executable, str(ROOFLINE)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="Alpaca rows: a JSON array; default: generated rows of their lengths")
    parser.add_argument("--trl-python", default=sys.executable, help="the interpreter of another environment with trl")
    parser.add_argument(
        "--llama-factory-python", help="the interpreter of an environment with llamafactory, a second peer"
    )
    parser.add_argument("--before", type=Path, help="another checkout of this project, whose packages are compared too")
    parser.add_argument("--shape", choices=list(SHAPES), default="sft", help="what is trained")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--processors", default="native", help="native, avx2 or default, or several with commas")
    parser.add_argument("--formats", default="float32,bfloat16", help="which number formats are compared")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, options.data or generated(Path(folder, "rows.json"), options.samples, options.shape))


def generated(path: Path, count: int, shape: str = "sft") -> Path:
    """Rows with the lengths of Alpaca's, in the format of what is trained."""
    if shape == "long":
        talks = list(islice(_joined(alpaca_like.conversations(40 * count, 0)), count))
    else:
        talks = list(alpaca_like.conversations(count, 0))
    make = {"orpo": _preferences, "kto": _ratings}.get(SHAPES[shape]["method"], _alpaca)
    path.write_text(json.dumps(make(talks)), encoding="utf-8")
    return path


def _joined(talks: Iterable[list[dict[str, str]]]) -> Iterator[list[dict[str, str]]]:
    """Of several questions the first, with the answers to all in one."""
    questions, answers = [], []
    for asked, answer in talks:
        questions.append(asked)
        answers.append(answer["content"])
        if sum(len(text.split()) for text in answers) >= _LONG_ROW:
            yield [questions[0], {"role": "assistant", "content": "\n\n".join(answers)}]
            questions, answers = [], []


def _alpaca(talks: list[list[dict[str, str]]]) -> list[dict]:
    return [{"instruction": asked["content"], "input": "", "output": answer["content"]} for asked, answer in talks]


def _preferences(talks: list[list[dict[str, str]]]) -> list[dict]:
    """Of each question its own answer is preferred to that of the next."""
    others = talks[1:] + talks[:1]
    return [
        {"prompt": [asked], "chosen": [answer], "rejected": [other[1]]}
        for (asked, answer), other in zip(talks, others, strict=True)
    ]


def _ratings(talks: list[list[dict[str, str]]]) -> list[dict]:
    return [
        {"prompt": [asked], "completion": [answer], "label": number % 2 == 0}
        for number, (asked, answer) in enumerate(talks)
    ]


def variants(options: argparse.Namespace) -> dict[str, tuple[str, Path, dict]]:
    """What is compared, by name: the interpreter, the script, and its arguments."""
    peer = options.trl_python
    found = {
        "backpropagate, float32": (sys.executable, OURS, {"dtype": "float32"}),
        "backpropagate, bfloat16": (sys.executable, OURS, {"dtype": "bfloat16"}),
    }
    for dtype, shown in (("float32", "float32"), ("bfloat16", "bfloat16 autocast")):
        for name, extra in _TRL_SETTINGS[options.shape].items():
            found[f"TRL, {shown}{name}"] = (peer, THEIRS, {"dtype": dtype, "extra": extra})
        if options.llama_factory_python:
            for name, extra in _LLAMA_FACTORY_SETTINGS.get(options.shape, {}).items():
                call = (options.llama_factory_python, LLAMA_FACTORY, {"dtype": dtype, "extra": extra})
                found[f"LLaMA-Factory, {shown}{name}"] = call
    if options.before:
        source = {"source": str(options.before.resolve())}
        for dtype in ("float32", "bfloat16"):
            found[f"before, {dtype}"] = (sys.executable, OURS, {"dtype": dtype, **source})
    formats = options.formats.split(",")
    return {name: variant for name, variant in found.items() if variant[2]["dtype"] in formats}


def compare(options: argparse.Namespace, data: Path) -> None:
    model = str(locate.locate("smollm2-135m", lambda progress: None))
    common = SHAPES[options.shape] | {
        "model": model, "data": str(data.resolve()), "steps": options.steps,
        "samples": options.samples, "warm_up": WARM_UP, "extra": {},
    }  # fmt: skip
    shape = {"name": options.shape} | {key: common[key] for key in ("batch", "length", "steps", "samples")}
    results: dict = {
        "machine": {"processor": processor.name(), "system": platform.system()},
        "shape": shape,
        "processors": {},
    }
    for setting in options.processors.split(","):
        environment = processors.environment(setting)
        runs: dict[str, list[dict]] = {name: [] for name in variants(options)}
        rooflines = []
        for turn in range(options.rounds):
            rooflines.append(roofline(environment))
            for name, (python, side, changes) in variants(options).items():
                print(f"{setting}, round {turn + 1}, {name}", flush=True)
                runs[name].append(measure(python, side, common | changes, environment | packages_of(changes)))
        results["processors"][setting] = report(setting, runs, rooflines)
        if options.out:
            options.out.write_text(json.dumps(results, indent=1) + "\n")


def report(setting: str, runs: dict[str, list[dict]], rooflines: list[dict[str, float]]) -> dict:
    """Print the medians of one processor as a table; they are returned with all rounds."""
    best = {name: statistics.median(found[name] for found in rooflines) for name in rooflines[0]}
    rate, tokens, peak, flops = (
        {name: statistics.median(run[key] for run in found) for name, found in runs.items()}
        for key in ("rate", "tokens", "peak", "flops")
    )
    theirs = max((name for name in tokens if name.startswith("TRL")), key=tokens.get)
    print(f"\n{setting}: " + ", ".join(f"{name} roofline {value / 1e9:.0f} GFLOP/s" for name, value in best.items()))
    print(f"{'':40} tokens/s  × TRL's best  trained tokens/s  peak GiB  × TRL's  of the roofline")
    for name in runs:
        share = flops[name] / best["bfloat16" if "bfloat16" in name else "float32"]
        print(
            f"{name:40} {tokens[name]:8.1f} {tokens[name] / tokens[theirs]:12.2f} {rate[name]:17.1f}"
            f" {peak[name] / 2**30:9.2f} {peak[name] / peak[theirs]:8.2f} {share:16.0%}"
        )
    return {"rate": rate, "tokens": tokens, "peak_bytes": peak, "flops": flops, "roofline": rooflines, "runs": runs}


if __name__ == "__main__":
    main()
