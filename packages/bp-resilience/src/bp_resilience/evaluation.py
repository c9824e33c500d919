"""Looking at examples that are not trained on: loss, perplexity, the best step so far, when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bp_core.errors import OutOfMemory
from bp_core.events import Evaluated, EvaluationShrunk, Watch
from bp_core.examples import Batch, StepBatch
from bp_core.process_group import agreed
from bp_core.rail import Measured, Rail
from bp_core.recipe import Recipe

from .checkpoints import State
from .data_parallel import rounds


def drift_of(rail: Rail, examples: StepBatch, size: int, *, even: bool = False) -> float:
    """How far the adapter has moved from the base on answers that do not belong to their prompts; at least 0.

    KTO's reference point z₀ (arXiv:2402.01306, section 4.1), over a whole step, so that its loss does not depend on how
    the step is cut; 0 for other methods. `even`: every process measures as often as the others.
    """
    team = rail.join()
    mine = rounds(examples.mismatched(size), team)
    part = agreed(team, lambda: sum(rail.drift(batch) * counts for batch, counts in mine if counts or even))
    whole: float = sum(team.gather(part))
    return max(0.0, whole * examples.weight)


class Evaluation:
    """The held-out examples of a run. Without any, nothing is ever due."""

    def __init__(self, examples: StepBatch | None, recipe: Recipe, rail: Rail, watch: Watch) -> None:
        self._examples, self._recipe, self._rail, self._watch = examples, recipe, rail, watch

    def due(self, state: State) -> bool:
        """Every `eval_every` steps and after the last one; once for a step, also when a run is resumed there."""
        every, step = self._recipe.eval_every, state.step
        if self._examples is None or not every or state.evaluated == step:
            return False
        return step > 0 and (step % every == 0 or step == self._recipe.steps)

    def run(self, state: State, asked: Callable[[], bool]) -> State:
        """The state with this evaluation counted. Cut short when a stop is asked for; a resumed run makes it up."""
        assert self._examples is not None
        while True:
            try:
                found = self._measure(self._examples, state.eval_batch, asked)
                break
            except (OutOfMemory, MemoryError):
                self._rail.discard()
                if state.eval_batch == 1:
                    raise
                state = replace(state, eval_batch=state.eval_batch // 2)
                self._watch(EvaluationShrunk(state.step, state.eval_batch))
        return state if found is None else self._counted(state, *found)

    def patience_over(self, state: State) -> bool:
        return 0 < self._recipe.patience <= state.worse

    def _measure(self, examples: StepBatch, size: int, asked: Callable[[], bool]) -> tuple[float, float] | None:
        """The mean loss and the share that is right, `size` rows at a time; None when a stop was asked for."""
        total, right, team = 0.0, 0, self._rail.join()
        even = self._recipe.shared_out
        for batch, counts in rounds(examples.split(size, drift_of(self._rail, examples, size, even=even)), team):
            if asked():
                return None
            found = agreed(team, partial(self._sums, batch if counts or even else None))
            for loss, hits in team.gather(found if counts else (0.0, 0)):
                total, right = total + loss, right + hits
        return total * examples.weight, right * examples.weight

    def _sums(self, batch: Batch | None) -> tuple[float, int]:
        found = self._rail.evaluate(batch) if batch else Measured(0.0, 0)
        return found.loss, found.right

    def _counted(self, state: State, loss: float, share: float) -> State:
        best = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
        of_tokens = self._recipe.method == "sft"
        perplexity = math.exp(min(loss, 700.0)) if of_tokens else None
        self._watch(Evaluated(state.step, loss, perplexity, self._targets, best, None if of_tokens else share))
        if best:
            return replace(state, evaluated=state.step, best_step=state.step, best_loss=loss, worse=0)
        return replace(state, evaluated=state.step, worse=state.worse + 1)

    @property
    def _targets(self) -> int:
        assert self._examples is not None
        return self._examples.targets
