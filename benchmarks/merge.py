"""What merging costs beside the memory's own speed: a fold of a 7B model's adapter, next to copies of the same bytes.

A is kept by reference and only read, to see that it is finite; it is not counted. B_new and the merged B are read and
the new merged B is written: three times B. A copy moves twice B. Since a fold changes nothing that it was given, its
result lies in new memory; so does that of the copy it is judged by. A copy into memory that was used before, which the
system need not clear, is told beside it. Exits 1 if the fold moves fewer than half as many bytes a second.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peak_memory import peak

from bp_multirun import Adapter, Pair, State, fold, read_adapter, write_adapter
from bp_multirun.slao import rows_of
from bp_multirun.state_folder import load, save

LIMIT = 0.5
LAYERS, RANK = 28, 64
HIDDEN, KEYS, MLP = 3584, 512, 18944  # Qwen2.5-7B
SHAPES = {  # out, in
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": "all-linear"}


def adapter(seed: int) -> Adapter:
    rng = np.random.default_rng(seed)
    factors = {}
    for layer in range(LAYERS):
        for name, (out, into) in SHAPES.items():
            pair = Pair(rng.standard_normal((RANK, into), np.float32), rng.standard_normal((out, RANK), np.float32))
            pair.a.setflags(write=False)  # as those that are read from a folder
            pair.b.setflags(write=False)
            factors[f"model.layers.{layer}.{name}"] = pair
    return Adapter(CONFIG, factors, "float32")


def timed(work) -> float:
    began = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    del result
    return seconds


def races(state: State, new: Adapter):
    """Ways to move the same B, by name: what they do, and how many times B they move."""
    b = {name: pair.b for name, pair in new.factors.items()}
    used = np.ones(sum(array.size for array in b.values()), np.float32)

    def copy(target: np.ndarray) -> np.ndarray:
        end = 0
        for array in b.values():
            begin, end = end, end + array.size
            np.copyto(target[begin:end].reshape(array.shape), array)
        return target

    def naive() -> dict[str, np.ndarray]:
        merged = {name: held + np.float32(0.5) * (b[name] - held) for name, held in state.b_merged.items()}
        finite = [*merged.values(), *(pair.a for pair in new.factors.values())]
        assert all(np.isfinite(array).all() for array in finite)
        return merged

    return {
        "copy, new memory": (lambda: copy(np.empty(used.size, np.float32)), 2),
        "copy, used memory": (lambda: copy(used), 2),
        "naive expression": (naive, 3),
        "fold": (lambda: fold(state, new.factors), 3),
    }


def speeds(repeats: int) -> dict[str, dict[str, float]]:
    """Of every way, in turn: median seconds, bytes moved a second, and those as a share of a copy into new memory."""
    first, new = adapter(0), adapter(1)
    ways = races(fold(None, first.factors), new)
    size = sum(pair.b.nbytes for pair in new.factors.values())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (work, _) in ways.items():
            seconds[name].append(timed(work))
    found = {}
    for name, (_, times) in ways.items():
        median = statistics.median(seconds[name])
        found[name] = {"seconds": median, "best": min(seconds[name]), "bytes_per_second": times * size / median}
    for row in found.values():
        row["share"] = row["bytes_per_second"] / found["copy, new memory"]["bytes_per_second"]
    return found


def folders(folder: Path) -> dict[str, float]:
    """Seconds for files (the system's cache holds them) and for orthonormalising every A; leaves two adapters there."""
    adapters = [adapter(0), adapter(1)]
    found = {"write adapter": 0.0}
    for number, each in enumerate(adapters):
        (folder / str(number)).mkdir()
        found["write adapter"] = timed(lambda where=folder / str(number), what=each: write_adapter(where, what))
    state = fold(None, adapters[0].factors)
    (folder / "state").mkdir()
    found["write state"] = timed(lambda: save(state, folder / "state"))
    found["open adapter"] = timed(lambda: read_adapter(folder / "1"))
    found["read adapter"] = timed(
        lambda: [np.sum(p.a) + np.sum(p.b) for p in read_adapter(folder / "1").factors.values()]
    )
    found["open state"] = timed(lambda: load(folder / "state"))
    found["orthonormal rows"] = timed(lambda: rows_of(adapters[1].factors))
    return found


def stage(folder: Path) -> int:
    """Bytes that merging one stage adds to a process: read adapter and state, fold, write both."""
    before = peak()
    new, state = read_adapter(folder / "1"), load(folder / "state")
    state = fold(state, new.factors)
    (folder / "merged").mkdir()
    save(state, folder / "merged")
    write_adapter(folder / "merged", Adapter(new.config, new.factors, new.dtype))
    return peak() - before


def measure(repeats: int) -> dict[str, object]:
    size = 4 * LAYERS * RANK * sum(map(sum, SHAPES.values()))
    with tempfile.TemporaryDirectory() as name:
        seconds = folders(Path(name))
        words = [sys.executable, __file__, "--stage", name]
        added = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, NumPy {np.__version__}"
    return {
        "machine": machine,
        "parameters": size // 4,
        "adapter_bytes": size,
        "speeds": speeds(repeats),
        "seconds": seconds,
        "peak_in_adapters": added / size,
    }


def show(found) -> None:
    print(f"{found['parameters'] / 1e6:.0f} M parameters, {found['adapter_bytes'] / 1e6:.0f} MB; {found['machine']}")
    for name, row in found["speeds"].items():
        taken = f"{row['seconds'] * 1e3:5.0f} ms (best {row['best'] * 1e3:4.0f})"
        print(f"{name:18} {taken}  {row['bytes_per_second'] / 1e9:5.1f} GB/s  {row['share']:.2f}")
    for name, seconds in found["seconds"].items():
        print(f"{name:18} {seconds:6.2f} s")
    print(f"merging a stage, from files to files, takes {found['peak_in_adapters']:.2f} adapters of memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the numbers here as JSON")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(stage(options.stage))
        return
    found = measure(options.repeats)
    show(found)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(found["speeds"]["fold"]["share"] < LIMIT)


if __name__ == "__main__":
    main()
