"""Our side of data_vs_trl.py: prepares as the JSON argument says and prints what it measured."""

import hashlib
import json
import sys
import time

from bp_data import ChatTokenizer, prepare

a = json.loads(sys.argv[1])
tokenizer = ChatTokenizer.open(a["model"])
began = time.perf_counter()
prepared = prepare(a["data"], tokenizer, max_length=a["length"], packing=True)
seconds = time.perf_counter() - began
rows = sorted(hashlib.sha256(bytes(one.tokens) + bytes(one.trained)).digest() for one in prepared.examples)
facts = {
    "seconds": seconds,
    "examples": len(rows),
    "packed": prepared.report.packed,
    "tokens": prepared.report.tokens,
    "targets": prepared.report.targets,
    "digest": hashlib.sha256(b"".join(rows)).hexdigest(),
}
print(json.dumps(facts))
