"""The one training loop. It owns time: order, learning rate, retries, checkpoints, stopping. Tensors are the rail's."""

from __future__ import annotations

import math
from dataclasses import replace
from time import perf_counter

from bp_core.config import Recipe
from bp_core.errors import Diverged, Interrupted, OutOfMemory
from bp_core.events import Checkpointed, Finished, MemoryShrunk, Started, Stepped, Watch
from bp_core.examples import Batches, StepBatch
from bp_core.rail import Rail

from .checkpoints import Keeper, State
from .schedule import learning_rate
from .signals import Signals


def train(rail: Rail, batches: Batches, recipe: Recipe, keeper: Keeper, watch: Watch) -> State:
    """Run `recipe.steps` optimizer steps on an opened rail, from the newest checkpoint if `keeper` has one.

    Raises OutOfMemory when one example at a time does not fit, Diverged on a loss or gradient that is not finite,
    and Interrupted after Ctrl-C, when a checkpoint has been written.
    """
    state = keeper.restore(rail) or State(micro_batch=recipe.micro_batch)
    batches.seek(state.position)
    watch(Started(state.step, recipe.steps))
    loss = math.nan
    with Signals() as signals:
        while state.step < recipe.steps:
            state, loss = _step(rail, batches, recipe, state, watch)
            if signals.asked or keeper.due(state, recipe.steps):
                watch(Checkpointed(state.step, str(keeper.save(state, rail))))
            if signals.asked and state.step < recipe.steps:
                raise Interrupted(f"stopped after step {state.step} of {recipe.steps}; a checkpoint was written.")
    watch(Finished(state.step, loss, state.tokens, state.targets, state.seconds, rail.memory().peak))
    return state


def _step(rail: Rail, batches: Batches, recipe: Recipe, state: State, watch: Watch) -> tuple[State, float]:
    """One optimizer step: accumulate and update, the whole of it replayed smaller when memory runs out."""
    began = perf_counter()
    rate = learning_rate(recipe, state.step)
    examples = batches.take(recipe.batch_size)
    while True:
        try:
            loss, norm = _attempt(rail, examples, state, rate)
            break
        except OutOfMemory as error:
            rail.discard()
            state = _shrink(state, error)
            watch(MemoryShrunk(state.step, state.micro_batch))
    seconds = perf_counter() - began
    state = replace(
        state,
        step=state.step + 1,
        position=batches.position,
        tokens=state.tokens + examples.tokens,
        targets=state.targets + examples.targets,
        seconds=state.seconds + seconds,
    )
    watch(Stepped(state.step, loss, rate, norm, examples.tokens, examples.targets, seconds, rail.memory()))
    return state, loss


def _attempt(rail: Rail, examples: StepBatch, state: State, rate: float) -> tuple[float, float]:
    """Loss per target token and gradient norm of one try at a step."""
    weight = 1 / examples.targets
    loss = sum(rail.accumulate(batch, weight) for batch in examples.split(state.micro_batch))
    if not math.isfinite(loss):
        rail.discard()
        raise Diverged(f"the loss of step {state.step + 1} is {loss}; the model was not changed by it.")
    norm = rail.update(rate)
    if not math.isfinite(norm):
        raise Diverged(f"the gradient of step {state.step + 1} is {norm}; the model was not changed by it.")
    return loss, norm


def _shrink(state: State, error: OutOfMemory) -> State:
    """Half the micro-batch; the error itself when there is nothing left to give."""
    if state.micro_batch == 1:
        raise error
    return replace(state, micro_batch=state.micro_batch // 2)
