"""Our side of export_vs_llama_cpp.py: one step of an export, as the JSON argument says."""

import json
import sys
import time
from pathlib import Path

from bp_export.gguf import vocabulary
from bp_export.gguf.convert import Converter
from bp_export.proof.prover import Prover
from bp_export.proof.trained_model import TrainedModel
from bp_export.quantization.quantize import quantize
from bp_export.weights.merge import trained_weights

a = json.loads(sys.argv[1])
adapter, base, out = Path(a["adapter"]), Path(a["base"]), Path(a["out"])
if a["do"] == "convert":
    converter = Converter(trained_weights(adapter, base), base, a["type"])
    converter.write(out, vocabulary.read(base, converter.vocabulary_size), base.name)
elif a["do"] == "quantize":
    quantize(Path(a["plain"]), out, a["type"])
else:
    prover = Prover(TrainedModel.open(adapter, base), a["type"])
    start = time.perf_counter()
    prover.check_float(Path(a["plain"]))
    middle = time.perf_counter()
    if a["type"] != "f16":
        prover.check_final(out)
    print(json.dumps({"f16": middle - start, "final": time.perf_counter() - middle, "proven": prover.proven}))
