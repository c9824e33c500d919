import math

import pytest
from tiny_runs import held_out, kinds, run

from bp_core.errors import Interrupted
from bp_core.events import Evaluated, Finished, StoppedEarly
from bp_core.null_rail import NullRail
from bp_core.rail import EvalSums
from bp_resilience import LoopContext, Signals


class Scripted(NullRail):
    """Held-out losses as given, one an evaluation; the updates done say which."""

    def __init__(self, losses, every):
        super().__init__()
        self.losses, self.every = losses, every

    def accumulate(self, batch, weight):
        return len(batch.lengths) * weight

    def evaluate(self, batch):
        count = sum(map(bool, batch.trained))
        return EvalSums(count * self.losses[-(-self.updates // self.every) - 1], count)


def evaluated(folder, losses, every=2, watch=None, **changes):
    events = []
    rail, state = run(
        folder, Scripted(losses, every), watch or events.append, LoopContext(held_out(20)), eval_every=every, **changes
    )
    return events, rail, state


def test_loss_and_perplexity_by_token_and_the_best_one(tmp_path):
    events, _, state = evaluated(tmp_path, [3.0, 1.0, 2.0, 0.5, 4.0])
    looks = kinds(events, Evaluated)
    assert [(e.step, e.loss, e.best) for e in looks] == [
        (2, 3.0, True), (4, 1.0, True), (6, 2.0, False), (8, 0.5, True), (10, 4.0, False),
    ]  # fmt: skip
    assert [e.perplexity for e in looks] == [pytest.approx(math.exp(e.loss)) for e in looks]
    assert looks[0].targets == held_out(20).trained_tokens
    assert (state.best_step, state.best_loss, state.worse) == (8, 0.5, 1)


def test_the_last_step_is_evaluated_also_between_two(tmp_path):
    events, _, _ = evaluated(tmp_path, [3.0, 2.0, 1.0], every=4)
    assert [event.step for event in kinds(events, Evaluated)] == [4, 8, 10]


def test_patience_stops_a_run_that_gets_no_better(tmp_path):
    events, rail, state = evaluated(tmp_path, [2.0, 1.0, 1.0, 1.5, 0.1], patience=2)
    assert kinds(events, StoppedEarly) == [StoppedEarly(8, 4)] and type(events[-1]) is Finished
    assert rail.updates == state.step == 8 and state.best_step == 4


def test_numbers_that_are_not_finite_are_never_the_best(tmp_path):
    events, _, state = evaluated(tmp_path, [math.nan, 2.0, math.inf, 3.0, math.nan])
    assert state.best_step == 4 and '"loss": null' in kinds(events, Evaluated)[0].as_json()
    assert kinds(events, Evaluated)[2].perplexity > 1e300


def test_without_examples_nothing_is_evaluated(tmp_path):
    events = []
    run(tmp_path, watch=events.append, eval_every=2, patience=1)
    assert not kinds(events, Evaluated)


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_run_cut_off_anywhere_evaluates_and_stops_as_one_that_never_was(tmp_path, stop):
    class Cut(Exception):
        pass

    def cut(event):
        if event.step == stop and not isinstance(event, Evaluated):
            raise Cut

    losses = [3.0, 1.0, 2.0, 2.5, 4.0]
    whole, _, expected = evaluated(tmp_path / "whole", losses, patience=3, checkpoint_every=1)
    with pytest.raises(Cut):
        evaluated(tmp_path / "cut", losses, watch=cut, patience=3, checkpoint_every=1)
    events, _, state = evaluated(tmp_path / "cut", losses, patience=3, checkpoint_every=1)
    assert (state.step, state.best_step, state.worse) == (expected.step, expected.best_step, expected.worse)
    later = [event for event in kinds(whole, Evaluated) if event.step >= stop]
    assert kinds(events, Evaluated)[-len(later) :] == later


@pytest.mark.parametrize("step", [4, 10])
def test_a_stop_cuts_an_evaluation_short_and_a_resumed_run_makes_it_up(tmp_path, step):
    signals, told = Signals(), []

    class Pressed(Scripted):
        def evaluate(self, batch):
            signals.stop_requested = signals.stop_requested or self.updates == step
            return super().evaluate(batch)

    losses = [5.0, 4.0, 3.0, 2.0, 1.0]
    with pytest.raises(Interrupted, match=f"stopped after step {step}"):
        run(tmp_path, Pressed(losses, 2), told.append, LoopContext(held_out(20), signals=signals), eval_every=2)
    events, _, state = evaluated(tmp_path, losses)
    steps = [event.step for event in kinds([*told, *events], Evaluated)]
    assert steps == [2, 4, 6, 8, 10] and state.best_step == 10
