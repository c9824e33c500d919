"""The one training loop: order, learning rate, retries, checkpoints, stopping. The rail does the computation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from bp_core.errors import Diverged, Interrupted, OutOfMemory
from bp_core.events import Checkpointed, Finished, Skipped, Started, Stepped, StoppedEarly, Warned, Watch
from bp_core.examples import Batches, StepBatch
from bp_core.process_group import all_agree
from bp_core.rail import Rail
from bp_core.recipe import Recipe
from bp_core.units import counted

from . import disk_full
from .checkpoints import CheckpointManager, State
from .clock import Clock, Pause
from .data_parallel import hottest_card, own_micro_batches, rank0_clock
from .evaluation import Evaluation, measure_kl_reference
from .oom_recovery import OomRecovery, UnifiedMemorySpill
from .schedule import learning_rate
from .signals import Signals
from .thermal import Sensor, ThermalPause

# Where not one step gave a number, it was not the learning rate: nothing was learned yet.
_NEVER_FINITE = (
    "The model gives no numbers even before it learned anything: try --dtype float32, and check that its weights are "
    "whole (`backprop chat` with the base must answer in words)."
)


PAUSE, STOP = "pause", "stop"  # what a user may wish between two steps; anything else is to go on
_NEVER_AGAIN = -2
_SECONDS_BETWEEN_LOOKS = 1.0  # for the wish to go on


def no_wish() -> str:
    return ""


def no_samples(step: int) -> None:
    """Ask nothing."""


@dataclass(frozen=True)
class LoopContext:
    """Optional inputs of a run: held-out examples, a temperature sensor, signals, what the user wishes, a clock.

    `wish` returns PAUSE or STOP, or anything else to go on. It is asked often, so it must be quick. `sample` is called
    every `Recipe.sample_every` steps, and must leave the rail as it was; when memory runs out in it, that was the last
    time.
    """

    held_out: StepBatch | None = None
    sensor: Sensor | None = None
    signals: Signals = field(default_factory=Signals)
    wish: Callable[[], str] = no_wish
    sample: Callable[[int], None] = no_samples
    clock: Clock = field(default_factory=Clock)


def train(
    rail: Rail,
    batches: Batches,
    recipe: Recipe,
    checkpoints: CheckpointManager,
    watch: Watch,
    context: LoopContext | None = None,
) -> State:
    """Run `recipe.steps` optimizer steps on an opened rail, from the newest checkpoint if `checkpoints` has one.

    Raises OutOfMemory when one example at a time does not fit, Diverged after too many losses or gradients that are
    not finite, DiskFull when waiting for space did not help, and Interrupted after Ctrl-C, with a checkpoint written.

    In a process group every process calls this. They take the same decisions: the clock is rank 0's, and a signal, heat
    or out-of-memory in one process is acted upon by all. Only rank 0 writes files.
    """
    context = context or LoopContext()
    with context.signals:
        return _Loop(rail, batches, recipe, checkpoints, watch, context).run()


@dataclass
class _Loop:
    """One run of `train`; the methods are in the order in which they are called."""

    rail: Rail
    batches: Batches
    recipe: Recipe
    checkpoints: CheckpointManager
    watch: Watch
    context: LoopContext

    def __post_init__(self) -> None:
        self.group = self.rail.join()
        self.clock = rank0_clock(self.context.clock, self.group)
        self.pause = Pause(self.clock, self.watch, self._stop_requested)
        self.evaluation = Evaluation(self.context.held_out, self.recipe, self.rail, self.watch)
        sensor = hottest_card(self.context.sensor, self.group)
        self.thermal = ThermalPause(sensor, self.recipe.max_temp, self.recipe.cooldown)
        self.recovery, self.spill = OomRecovery(self.rail, self.watch), UnifiedMemorySpill()
        self.loss = math.nan
        self.sampled = -1  # the last step that was sampled; none is twice

    def run(self) -> State:
        state = self._begin()
        while True:
            if self.evaluation.due(state) and not self._stop_requested():
                state = self.evaluation.run(state, self._stop_requested)
            self._sample(state)
            due = self.group.gather(self.checkpoints.due(state, self.recipe.steps))[0]
            if due or (self._stop_requested() and not self.checkpoints.has(state)):
                self._checkpoint(state)
            if self._over(state):
                return self._end(state)
            if self._stop_requested():
                raise Interrupted(f"stopped after step {state.step} of {self.recipe.steps}; a checkpoint was written.")
            self.thermal.between_steps(state.step, self.pause)
            self._pause_if_wished(state.step)
            if not self._stop_requested():
                state = self._step(state)

    def _begin(self) -> State:
        size = self.recipe.micro_batch
        state = self.checkpoints.restore(self.rail, lambda message: self.watch(Warned(0, message)))
        state = state or State(micro_batch=size, eval_batch=size)
        self.recovery.resume(state)
        self.batches.seek(state.position)
        self.watch(Started(state.step, self.recipe.steps))
        self.sampled = state.step
        return state

    def _step(self, state: State) -> State:
        """One optimizer step: accumulate and update. When memory runs out the whole step is replayed with less."""
        began = self.clock.now()
        rate = learning_rate(self.recipe, state.step)
        examples = self.batches.take(self.recipe.batch_size)
        while True:
            try:
                loss, norm = self._attempt(examples, state, rate)
                break
            except (OutOfMemory, MemoryError) as error:
                state = self.recovery.recover(state, error)
        seconds = self.clock.now() - began
        state = replace(
            state,
            step=state.step + 1,
            position=self.batches.position,
            tokens=state.tokens + examples.tokens,
            trained_tokens=state.trained_tokens + examples.trained_tokens,
            seconds=state.seconds + seconds,
        )
        if not math.isfinite(loss):
            return self._skipped(state, f"loss is {loss}")
        if not math.isfinite(norm):
            return self._skipped(state, f"gradient is {norm}")
        self.loss = loss
        counts = (examples.tokens, examples.trained_tokens, seconds)
        done = Stepped(state.step, loss, rate, norm, *counts, self.rail.memory(), self.thermal.reading)
        self.watch(done)
        spilled = any(self.group.gather(self.spill.noticed(done)))
        return self.recovery.after_spill(state) if spilled else state

    def _attempt(self, examples: StepBatch, state: State, rate: float) -> tuple[float, float]:
        """Try one step: its mean loss and gradient norm. A loss that is not finite changes nothing."""
        pad = self.recipe.shared_out
        kl_reference = measure_kl_reference(self.rail, examples, state.micro_batch, pad=pad)
        split = partial(examples.split, kl_reference=kl_reference)
        mine = own_micro_batches(split, self.recipe.batch_size, state.micro_batch, self.group, pad=pad)
        part = all_agree(self.group, lambda: sum(self.rail.accumulate(b, times * examples.weight) for b, times in mine))
        loss: float = sum(self.group.gather(part))
        if not math.isfinite(loss):
            self.rail.discard()
            return loss, math.nan
        return loss, self.rail.update(rate)

    def _skipped(self, state: State, what: str) -> State:
        """Count a skipped update. Raises Diverged when too many, or all, were skipped."""
        state = replace(state, skipped=state.skipped + 1)
        self.watch(Skipped(state.step, what, state.skipped))
        if state.skipped > self.recipe.max_skipped or state.skipped == self.recipe.steps:
            message = (
                f"the {what} at step {state.step}; {counted(state.skipped, 'update')} skipped because of such numbers."
            )
            raise Diverged(message, fix=_NEVER_FINITE if state.skipped == state.step else None)
        return state

    def _sample(self, state: State) -> None:
        """Let the model answer, if that is due."""
        every, step = self.recipe.sample_every, state.step
        if not every or step % every or self.sampled in (step, _NEVER_AGAIN) or self._stop_requested():
            return
        self.sampled = step
        try:
            self.context.sample(step)
        except (OutOfMemory, MemoryError):
            self.rail.discard()
            self.sampled = _NEVER_AGAIN
            self.watch(Warned(step, "memory ran out while answering; no more answers until the end."))

    def _checkpoint(self, state: State) -> None:
        def write() -> str:
            try:
                return str(self.checkpoints.save(state, self.rail))
            except (OutOfMemory, MemoryError):
                self.rail.discard()  # frees what a step left cached; there are no gradients between steps
                return str(self.checkpoints.save(state, self.rail))

        folder = disk_full.retry_until_space(write, 60 * self.recipe.disk_wait, state.step, self.pause)
        self.watch(Checkpointed(state.step, folder))

    def _over(self, state: State) -> bool:
        """Whether the run is finished, the last evaluation included, which a stop may have cut short."""
        if self.evaluation.due(state):
            return False
        if state.step < self.recipe.steps and self.evaluation.patience_over(state):
            self.watch(StoppedEarly(state.step, state.best_step))
            return True
        return state.step == self.recipe.steps

    def _end(self, state: State) -> State:
        peak = self.rail.memory().peak
        self.watch(
            Finished(state.step, self.loss, state.tokens, state.trained_tokens, state.seconds, peak, state.skipped)
        )
        return state

    def _pause_if_wished(self, step: int) -> None:
        if self._pause_wished():
            self.pause.until(lambda waited: not self._pause_wished(), step, "as wished", _SECONDS_BETWEEN_LOOKS)

    def _pause_wished(self) -> bool:
        """Whether rank 0 was told to pause: all must wait together, and a file may be seen late elsewhere."""
        return bool(self.group.gather(self.context.wish() == PAUSE)[0])

    def _stop_requested(self) -> bool:
        return any(self.group.gather(self.context.signals.stop_requested or self.context.wish() == STOP))
