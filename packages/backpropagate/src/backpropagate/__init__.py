"""Fine-tune a language model in three lines and hand over a file that runs.

from backpropagate import Trainer
trainer = Trainer("smollm2-135m")
trainer.train("my_data.jsonl", steps=100)
trainer.export("gguf", quantization="q4_k_m")
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from bp_core.lazy_names import lazy_names

if TYPE_CHECKING:
    from bp_core.errors import BackpropagateError
    from bp_plan.plan import Plan

    from .example import EXAMPLE_DATA
    from .multi_run.session import MultiRun
    from .trainer import Trainer
    from .training.run import Run

__version__ = version("backpropagate")
__all__ = ["EXAMPLE_DATA", "BackpropagateError", "MultiRun", "Plan", "Run", "Trainer", "__version__"]

# Looked up when first used, so that `import backpropagate` costs nothing.
_HOMES = {
    "EXAMPLE_DATA": ".example",
    "BackpropagateError": "bp_core.errors",
    "MultiRun": ".multi_run.session",
    "Plan": "bp_plan.plan",
    "Run": ".training.run",
    "Trainer": ".trainer",
}
__getattr__ = lazy_names(__name__, _HOMES)
