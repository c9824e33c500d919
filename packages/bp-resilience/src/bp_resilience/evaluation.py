"""Evaluation on held-out examples: loss, perplexity, the best step so far, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bp_core.errors import OutOfMemory
from bp_core.events import Evaluated, EvaluationShrunk, Watch
from bp_core.examples import StepBatch
from bp_core.process_group import all_agree
from bp_core.rail import EvalSums, Rail
from bp_core.recipe import Recipe

from .checkpoints import State
from .data_parallel import rounds


def measure_kl_reference(rail: Rail, examples: StepBatch, size: int, *, pad: bool = False) -> float:
    """KTO's reference point z₀ (arXiv:2402.01306, section 4.1) over a whole step; 0 for other methods.

    It estimates the KL divergence from base to adapter, in nats and at least 0, on answers to other prompts. It is
    taken over the step and not a micro-batch, so that the loss does not depend on the micro-batch size. `pad` as in
    `own_micro_batches`.
    """
    group = rail.join()
    mine = rounds(examples.mismatched(size), group)
    part = all_agree(group, lambda: sum(rail.kl_reference(batch) * counts for batch, counts in mine if counts or pad))
    total: float = sum(group.gather(part))
    return max(0.0, total * examples.weight)


class Evaluation:
    """Evaluates the held-out `examples` when that is due; without examples it never is."""

    def __init__(self, examples: StepBatch | None, recipe: Recipe, rail: Rail, watch: Watch) -> None:
        self._examples, self._recipe, self._rail, self._watch = examples, recipe, rail, watch

    def due(self, state: State) -> bool:
        """True every `eval_every` steps and after the last one, once for each step."""
        every, step = self._recipe.eval_every, state.step
        if self._examples is None or not every or state.evaluated == step:
            return False
        return step > 0 and (step % every == 0 or step == self._recipe.steps)

    def run(self, state: State, stop_requested: Callable[[], bool]) -> State:
        """Evaluate, and return the updated state; unchanged when a stop was requested before the end."""
        assert self._examples is not None
        while True:
            try:
                sums = self._measure(self._examples, state.eval_batch, stop_requested)
                break
            except (OutOfMemory, MemoryError):
                self._rail.discard()
                if state.eval_batch == 1:
                    raise
                state = replace(state, eval_batch=state.eval_batch // 2)
                self._watch(EvaluationShrunk(state.step, state.eval_batch))
        return state if sums is None else self._record(state, self._examples, sums)

    def patience_over(self, state: State) -> bool:
        return 0 < self._recipe.patience <= state.worse

    def _measure(self, examples: StepBatch, size: int, stop_requested: Callable[[], bool]) -> EvalSums | None:
        """The sums over all examples, computed `size` rows at a time; None when a stop was requested."""
        sums, group = EvalSums(0.0, 0), self._rail.join()
        pad = self._recipe.shared_out
        kl_reference = measure_kl_reference(self._rail, examples, size, pad=pad)
        for batch, counts in rounds(examples.split(size, kl_reference), group):
            if stop_requested():
                return None
            evaluate = partial(self._rail.evaluate, batch) if counts or pad else partial(EvalSums, 0.0, 0)
            own = all_agree(group, evaluate)
            for loss, over, right in group.gather(own if counts else EvalSums(0.0, 0)):
                sums = EvalSums(sums.loss + loss, sums.over + over, sums.right + right)
        return sums

    def _record(self, state: State, examples: StepBatch, sums: EvalSums) -> State:
        loss = sums.loss * examples.weight
        best = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
        perplexity = accuracy = None
        if self._recipe.method == "sft":
            perplexity = math.exp(min(loss, 700.0))
        else:
            accuracy = sums.right * examples.weight
        self._watch(Evaluated(state.step, loss, perplexity, examples.trained_tokens, best, accuracy))
        if best:
            return replace(state, evaluated=state.step, best_step=state.step, best_loss=loss, worse=0)
        return replace(state, evaluated=state.step, worse=state.worse + 1)
