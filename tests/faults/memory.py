"""Memory that runs out at every verb and every micro-batch; losses must be those of a run with enough of it."""

import math
import sys
from pathlib import Path

from bp_core.backends import find
from bp_core.errors import OutOfMemory
from bp_core.events import Evaluated, EvaluationShrunk, MemoryShrunk, Relieved, Stepped
from bp_core.rail import Job
from bp_data import Batches, ChatTokenizer, prepare
from bp_resilience import CheckpointManager, LoopContext, train

from .runs import SETTINGS

sys.path.append(str(Path(__file__).parents[2] / "packages" / "bp-cuda" / "tests"))
from tiny_models import recipe

STEPS, BATCH, MICRO = 4, 5, 2  # five examples in twos: the last micro-batch is an odd one


class Faulty:
    """A real rail that has no memory left in the call given: before it begins, or when its work is done."""

    def __init__(self, rail, verb="", call=0, late=False, keeps_failing=False):
        self.rail, self.verb, self.call, self.late, self.keeps_failing = rail, verb, call, late, keeps_failing
        self.calls = 0

    def __getattr__(self, name):
        verb = getattr(self.rail, name)
        if name != self.verb:
            return verb

        def failing(*arguments):
            self.calls += 1
            if self.calls != self.call and not (self.keeps_failing and self.calls > self.call):
                return verb(*arguments)
            if self.late:
                verb(*arguments)
            raise OutOfMemory("injected.")

        return failing


def run(model, rows, folder, *fault, micro=MICRO):
    """Events of a run of the campaign's backend with that fault."""
    rail, events = find(SETTINGS["backend"]), []
    chosen = recipe(
        steps=STEPS, batch_size=BATCH, micro_batch=micro, eval_every=2, learning_rate=1e-3, checkpoint_every=4
    )
    rail.open(Job(model, recipe=chosen, dtype="float32"))
    examples = prepare(rows, ChatTokenizer.open(model), max_length=48).examples
    batches, held_out = Batches(examples, 0), Batches(examples, 1).take(4)
    checkpoints = CheckpointManager(folder, 2, 2)
    train(Faulty(rail, *fault), batches, chosen, checkpoints, events.append, LoopContext(held_out))
    return events


def faults():
    """Every call of every verb in the loop that computes."""
    per_step = math.ceil(BATCH / MICRO)
    for call in range(1, STEPS * per_step + 1):
        yield "accumulate", call, False
        yield "accumulate", call, True
    yield from (("update", call, False) for call in range(1, STEPS + 1))
    yield from (("save", call, late) for call in (1, 2) for late in (False, True))
    for call in range(1, 2 * 2 + 1):
        yield "evaluate", call, False
        yield "evaluate", call, True


def inject_all(model, rows, folder, every=1):
    """Inject each `every`-th fault in turn; how many, and the largest relative difference of a loss."""
    plain, worst, count = _losses(run(model, rows, folder / "plain")), 0.0, 0
    for number, fault in enumerate(list(faults())[::every]):
        events = run(model, rows, folder / f"oom-{number}", *fault)
        told = [event for event in events if isinstance(event, MemoryShrunk | EvaluationShrunk)]
        assert len(told) == (fault[0] != "save"), f"{fault}: told {told}"
        found = _losses(events)
        assert found.keys() == plain.keys(), f"{fault}: other steps"
        worst = max(worst, *(abs(found[key] - plain[key]) / abs(plain[key]) for key in plain))
        count += 1
    return count, worst


def relieve_all(model, rows, folder):
    """With one example at a time memory runs out at every call of a step; what saves memory must change no loss."""
    plain, worst = _losses(run(model, rows, folder / "one", micro=1)), 0.0
    for call in range(1, BATCH + 1):
        events = run(model, rows, folder / f"relief-{call}", "accumulate", BATCH + call, True, micro=1)
        assert [event.level for event in events if isinstance(event, Relieved)] == [1]
        found = _losses(events)
        worst = max(worst, *(abs(found[key] - plain[key]) / abs(plain[key]) for key in plain))
    return BATCH, worst


def exhaust(model, rows, folder):
    """Memory that never comes back; the error, which says what was tried."""
    try:
        run(model, rows, folder / "exhausted", "accumulate", 4, False, True)
    except OutOfMemory as error:
        return error
    raise AssertionError("it ended well without memory")


def _losses(events):
    """Losses by kind and step."""
    return {(type(e).__name__, e.step): e.loss for e in events if isinstance(e, Stepped | Evaluated)}
