"""What the loop costs beside the rail: events, state, watching, guards and checkpoints, as a share of a step's time.

Everything that a real run does is done: `Trainer` trains the embedded 135M model, and a rail that measures itself
stands between it and the CPU rail. What is not spent in the rail's verbs is the loop's. Two steps are warm-up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from backpropagate import Trainer, trainer
from bp_core.events import Checkpointed, Started, Stepped

WARM_UP = 2
DATA = Path(__file__).parents[1] / "examples" / "quickstart.jsonl"


class EvalSums:
    """A rail and the seconds spent in its verbs."""

    def __init__(self, rail):
        self.rail, self.seconds = rail, 0.0

    def __getattr__(self, name):
        verb = getattr(self.rail, name)
        if not callable(verb):
            return verb

        def timed(*arguments, **options):
            began = time.perf_counter()
            try:
                return verb(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def measure(steps, every):
    """Seconds a step: all, in the loop; and of the loop for a checkpoint."""
    rails, marks = [], []

    def choose(wanted):
        name, rail, probe = real(wanted)
        rails.append(EvalSums(rail))
        return name, rails[-1], probe

    def watch(event):
        if isinstance(event, Started | Stepped | Checkpointed):
            marks.append((event, time.perf_counter(), rails[-1].seconds))

    real, trainer.choose_rail = trainer.choose_rail, choose
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(backend="cpu", batch_size=4, checkpoint_every=every, output=folder, report_to="none")
        Trainer("smollm2-135m", **settings).train(DATA, steps=steps, watch=watch)
    pairs = [(a, b) for a, b in pairwise(marks) if b[0].step > WARM_UP]
    steps_only = [(b[1] - a[1], b[2] - a[2]) for a, b in pairs if isinstance(b[0], Stepped)]
    saves = [(b[1] - a[1]) - (b[2] - a[2]) for a, b in pairs if isinstance(b[0], Checkpointed)]
    whole = sum(all_of for all_of, _ in steps_only) / len(steps_only)
    own = sum(all_of - rail for all_of, rail in steps_only) / len(steps_only)
    return whole, own, sum(saves) / len(saves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    options = parser.parse_args()
    whole, own, save = measure(options.steps, options.every)
    print(f"a step takes {whole:.3f} s, of which the loop {own * 1000:.2f} ms: {own / whole:.2%}")
    print(f"a checkpoint costs the loop {save * 1000:.0f} ms beside the rail's own writing (hashes, fsync)")


if __name__ == "__main__":
    main()
