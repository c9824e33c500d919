"""Runs on the null rail: recipes, rows, time."""

from bp_core.examples import Batch
from bp_core.null_rail import NullRail
from bp_core.rail import Job
from bp_core.recipe import Recipe
from bp_resilience import CheckpointManager, Clock, LoopContext, train


def recipe(**changes):
    values = dict(
        model="m",
        output="o",
        backend="null",
        steps=10,
        rank=1,
        alpha=1.0,
        dropout=0.0,
        learning_rate=0.1,
        batch_size=6,
        micro_batch=6,
        max_length=8,
        packing=False,
        train_on="assistant",
        columns="",
        warmup_steps=2,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=0,
        dtype="float32",
        checkpoint_every=3,
        keep_checkpoints=2,
    )
    return Recipe(**values | changes)


class Step:
    def __init__(self, rows):
        self.rows = rows
        self.trained_tokens = sum(sum(row) for row in rows)
        self.tokens = sum(len(row) for row in rows)

        self.weight = 1 / self.trained_tokens

    def mismatched(self, micro_batch):
        return ()

    def split(self, micro_batch, kl_reference=0.0):
        for i in range(0, len(self.rows), micro_batch):
            part = self.rows[i : i + micro_batch]
            flat = [t for row in part for t in row]
            yield Batch(flat, flat, [len(row) for row in part])


class Rows:
    """Row n has n % 3 + 1 trained tokens."""

    position = 0

    def take(self, count):
        rows = [[0] + [1] * (n % 3 + 1) for n in range(self.position, self.position + count)]
        self.position += count
        return Step(rows)

    def seek(self, position):
        self.position = position


class Time:
    """A clock that only sleeping moves; what happens in a given second can be scripted."""

    def __init__(self):
        self.seconds = 0.0
        self.clock = Clock(lambda: self.seconds, self.sleep)

    def sleep(self, seconds):
        self.seconds += seconds


def run(folder, rail=None, watch=lambda event: None, context=None, **changes):
    """A run from the newest checkpoint in `folder`; the rail and the state at its end."""
    rail = rail or NullRail()
    r = recipe(**changes)
    rail.open(Job("none", recipe=r))
    context = context or LoopContext()
    checkpoints = CheckpointManager(
        folder, r.checkpoint_every, r.keep_checkpoints, minutes=r.checkpoint_minutes, clock=context.clock
    )
    return rail, train(rail, Rows(), r, checkpoints, watch, context)


def held_out(rows=4):
    """Examples to evaluate on."""
    return Rows().take(rows)


def kinds(events, kind):
    return [event for event in events if isinstance(event, kind)]
