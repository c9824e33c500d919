"""Our side of export_vs_llama_cpp.py: one step of an export, as the JSON argument says."""

import json
import sys
import time
from pathlib import Path

from bp_export import vocab
from bp_export.convert import Converter
from bp_export.merge import trained_weights
from bp_export.proof import Prover, Subject
from bp_export.quantization import quantize

a = json.loads(sys.argv[1])
adapter, base, out = Path(a["adapter"]), Path(a["base"]), Path(a["out"])
if a["do"] == "convert":
    converter = Converter(trained_weights(adapter, base), base, a["type"])
    converter.write(out, vocab.read(base, converter.vocabulary_size), base.name)
elif a["do"] == "quantize":
    quantize(Path(a["plain"]), out, a["type"])
else:
    prover = Prover(Subject.open(adapter, base), a["type"])
    start = time.perf_counter()
    prover.check_float(Path(a["plain"]))
    middle = time.perf_counter()
    if a["type"] != "f16":
        prover.check_final(out)
    print(json.dumps({"f16": middle - start, "final": time.perf_counter() - middle, "proven": prover.proven}))
