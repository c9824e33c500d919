"""Our side of sft_vs_trl.py and modes.py: trains as the JSON argument says and prints what it measured."""

import json
import sys
import tempfile

from backpropagate import Trainer
from bp_core.events import Stepped

a = json.loads(sys.argv[1])
events = []
with tempfile.TemporaryDirectory() as folder:
    shape = {"batch_size": a["batch"], "max_length": a["length"], "dtype": a["dtype"]}
    trainer = Trainer(a["model"], output=folder, backend="cpu", report_to="none", **shape | a.get("settings", {}))
    trainer.train(a["data"], steps=a["steps"], samples=a["samples"], watch=events.append)
steps = [e for e in events if isinstance(e, Stepped)][a["warm_up"] :]
print(
    json.dumps(
        {
            "targets": sum(e.targets for e in steps),
            "tokens": sum(e.tokens for e in steps),
            "seconds": sum(e.seconds for e in steps),
            "losses": [e.loss for e in steps],
            "peak": max(e.memory.peak for e in steps),
        }
    )
)
