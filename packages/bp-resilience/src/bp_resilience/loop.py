"""The one training loop. It owns time: order, learning rate, retries, checkpoints, stopping. Tensors are the rail's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial

from bp_core.errors import Diverged, Interrupted, OutOfMemory
from bp_core.events import Checkpointed, Finished, Skipped, Started, Stepped, StoppedEarly, Warned, Watch
from bp_core.examples import Batches, StepBatch
from bp_core.process_group import agreed
from bp_core.rail import Rail
from bp_core.recipe import Recipe

from . import disk_full
from .checkpoints import Keeper, State
from .clock import Clock, Pause
from .data_parallel import common_clock, hottest, share
from .evaluation import Evaluation, drift_of
from .oom_recovery import Room, Spill
from .schedule import learning_rate
from .signals import Signals
from .thermal import Heat, Sensor


@dataclass(frozen=True)
class Surroundings:
    """What a run may have around it: examples to evaluate on, the card's temperature, signals, a clock."""

    held_out: StepBatch | None = None
    sensor: Sensor | None = None
    signals: Signals = field(default_factory=Signals)
    clock: Clock = field(default_factory=Clock)


def train(
    rail: Rail, batches: Batches, recipe: Recipe, keeper: Keeper, watch: Watch, around: Surroundings | None = None
) -> State:
    """Run `recipe.steps` optimizer steps on an opened rail, from the newest checkpoint if `keeper` has one.

    Raises OutOfMemory when one example at a time does not fit, Diverged after too many losses or gradients that are
    not finite, DiskFull when waiting for room did not help, and Interrupted after Ctrl-C, once a checkpoint is written.

    In a team every process calls this, and all come to the same decisions: the clock is rank 0's, and what one of them
    meets (a signal, heat, an exhausted memory) all act upon. Rank 0 alone writes.
    """
    around = around or Surroundings()
    with around.signals:
        return _Loop(rail, batches, recipe, keeper, watch, around).run()


class _Loop:
    """One run of `train`: what it works with, and its steps in the order in which they happen."""

    def __init__(
        self, rail: Rail, batches: Batches, recipe: Recipe, keeper: Keeper, watch: Watch, around: Surroundings
    ) -> None:
        self.rail, self.batches, self.recipe, self.keeper, self.watch = rail, batches, recipe, keeper, watch
        self.team, self.signals = rail.join(), around.signals
        self.clock = common_clock(around.clock, self.team)
        self.pause = Pause(self.clock, watch, self._asked)
        self.evaluation = Evaluation(around.held_out, recipe, rail, watch)
        self.heat = Heat(hottest(around.sensor, self.team), recipe.max_temp, recipe.cooldown)
        self.room, self.spill = Room(rail, watch), Spill()
        self.loss = math.nan

    def run(self) -> State:
        state = self._begin()
        while True:
            if self.evaluation.due(state) and not self._asked():
                state = self.evaluation.run(state, self._asked)
            if self._due(state) or (self._asked() and not self.keeper.has(state)):
                self._checkpoint(state)
            if self._over(state):
                return self._end(state)
            if self._asked():
                raise Interrupted(f"stopped after step {state.step} of {self.recipe.steps}; a checkpoint was written.")
            self.heat.between_steps(state.step, self.pause)
            if not self._asked():
                state = self._step(state)

    def _begin(self) -> State:
        size = self.recipe.micro_batch
        state = self.keeper.restore(self.rail, lambda message: self.watch(Warned(0, message)))
        state = state or State(micro_batch=size, eval_batch=size)
        self.room.resume(state)
        self.batches.seek(state.position)
        self.watch(Started(state.step, self.recipe.steps))
        return state

    def _step(self, state: State) -> State:
        """One optimizer step: accumulate and update, the whole of it replayed with less memory when that runs out."""
        began = self.clock.now()
        rate = learning_rate(self.recipe, state.step)
        examples = self.batches.take(self.recipe.batch_size)
        while True:
            try:
                loss, norm = self._attempt(examples, state, rate)
                break
            except (OutOfMemory, MemoryError) as error:
                state = self.room.make(state, error)
        seconds = self.clock.now() - began
        state = replace(
            state,
            step=state.step + 1,
            position=self.batches.position,
            tokens=state.tokens + examples.tokens,
            targets=state.targets + examples.targets,
            seconds=state.seconds + seconds,
        )
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return self._skipped(state, f"loss is {loss}" if not math.isfinite(loss) else f"gradient is {norm}")
        self.loss = loss
        counts = (examples.tokens, examples.targets, seconds)
        done = Stepped(state.step, loss, rate, norm, *counts, self.rail.memory(), self.heat.reading)
        self.watch(done)
        spilled = any(self.team.gather(self.spill.noticed(done)))
        return self.room.after_spill(state) if spilled else state

    def _attempt(self, examples: StepBatch, state: State, rate: float) -> tuple[float, float]:
        """Mean loss and gradient norm of one try at a step. A loss that is not finite changes nothing."""
        drift = drift_of(self.rail, examples, state.micro_batch, even=self.recipe.shared_out)
        split = partial(examples.split, drift=drift)
        mine = share(split, self.recipe.batch_size, state.micro_batch, self.team, even=self.recipe.shared_out)
        part = agreed(self.team, lambda: sum(self.rail.accumulate(b, times * examples.weight) for b, times in mine))
        loss: float = sum(self.team.gather(part))
        if not math.isfinite(loss):
            self.rail.discard()
            return loss, math.nan
        return loss, self.rail.update(rate)

    def _skipped(self, state: State, what: str) -> State:
        """Count an update that was left out. Raises Diverged when there were too many, or no others."""
        state = replace(state, skipped=state.skipped + 1)
        self.watch(Skipped(state.step, what, state.skipped))
        if state.skipped > self.recipe.max_skipped or state.skipped == self.recipe.steps:
            raise Diverged(
                f"the {what} at step {state.step}; {state.skipped} updates were skipped because of such numbers."
            )
        return state

    def _checkpoint(self, state: State) -> None:
        def write() -> str:
            try:
                return str(self.keeper.save(state, self.rail))
            except (OutOfMemory, MemoryError):
                self.rail.discard()  # of what a step leaves cached; there are no gradients now
                return str(self.keeper.save(state, self.rail))

        folder = disk_full.patiently(write, 60 * self.recipe.disk_wait, state.step, self.pause)
        self.watch(Checkpointed(state.step, folder))

    def _due(self, state: State) -> bool:
        return bool(self.team.gather(self.keeper.due(state, self.recipe.steps))[0])

    def _over(self, state: State) -> bool:
        """Whether all is done: the last evaluation too, which a stop may have cut short."""
        if self.evaluation.due(state):
            return False
        if state.step < self.recipe.steps and self.evaluation.patience_over(state):
            self.watch(StoppedEarly(state.step, state.best_step))
            return True
        return state.step == self.recipe.steps

    def _end(self, state: State) -> State:
        peak = self.rail.memory().peak
        self.watch(Finished(state.step, self.loss, state.tokens, state.targets, state.seconds, peak, state.skipped))
        return state

    def _asked(self) -> bool:
        return any(self.team.gather(self.signals.asked))
