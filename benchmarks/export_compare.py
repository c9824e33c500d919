"""How far the files of both sides of export_vs_llama_cpp.py are apart, a tensor at a time."""

import json
import sys
from pathlib import Path

import numpy as np

from bp_export.gguf.reader import GgufFile

worst = {}
for type_ in ("f16", "q8_0"):
    ours, theirs = (GgufFile(Path(sys.argv[1], f"{side}-{type_}.gguf")) for side in ("ours", "peer"))
    if {n: t.shape for n, t in ours.tensors.items()} != {n: t.shape for n, t in theirs.tensors.items()}:
        raise SystemExit(f"the tensors of the {type_} files are not the same")
    for name in ours.tensors:
        a, b = ours.array(name), theirs.array(name)
        worst[type_] = max(worst.get(type_, 0.0), float(np.abs(a - b).max() / np.abs(b).max()))
print(json.dumps(worst))
