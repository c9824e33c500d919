import json
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import kinds, recipe, run

from bp_core.errors import Diverged, Interrupted, OutOfMemory
from bp_core.events import Checkpointed, Finished, MemoryShrunk, Skipped, Started, Stepped
from bp_core.null_rail import NullRail
from bp_resilience import learning_rate


def test_a_run_steps_reports_and_finishes(tmp_path):
    events = []
    rail, state = run(tmp_path, watch=events.append)
    assert rail.updates == state.step == 10 and state.position == 60
    assert type(events[0]) is Started and type(events[-1]) is Finished
    steps = [e for e in events if isinstance(e, Stepped)]
    assert [e.step for e in steps] == list(range(1, 11))
    assert steps[0].loss == pytest.approx(2.0) and steps[-1].loss < steps[0].loss
    assert sum(e.targets for e in steps) == state.trained_tokens == events[-1].targets
    assert all(json.loads(e.as_json())["event"] for e in events)


@pytest.mark.parametrize("capacity", [1, 2, 4, 5])
def test_out_of_memory_replays_the_whole_step_and_keeps_the_experiment(tmp_path, capacity):
    events = []
    plain, expected = run(tmp_path / "plain")
    small, state = run(tmp_path / "small", NullRail(capacity), events.append)
    assert small.weight == pytest.approx(plain.weight, rel=1e-12)
    assert (state.step, state.tokens, state.trained_tokens) == (expected.step, expected.tokens, expected.trained_tokens)
    shrinks = [e for e in events if isinstance(e, MemoryShrunk)]
    assert shrinks[-1].micro_batch <= capacity and all(e.step == 0 for e in shrinks)
    assert small.log.count("update") == 10 and small.log.count("discard") == len(shrinks)


def test_out_of_memory_at_one_example_is_the_users_to_solve(tmp_path):
    with pytest.raises(OutOfMemory):
        run(tmp_path, NullRail(capacity=0))


@settings(deadline=None, max_examples=30)
@given(stop=st.integers(1, 9), every=st.integers(1, 5), capacity=st.sampled_from([None, 2, 5]))
def test_a_run_cut_off_anywhere_ends_like_one_that_never_was(tmp_path_factory, stop, every, capacity):
    class Cut(Exception):
        pass

    def cut(event):
        if isinstance(event, Stepped) and event.step == stop:
            raise Cut

    folder = tmp_path_factory.mktemp("run")
    whole, expected = run(folder / "whole", NullRail(capacity), checkpoint_every=every)
    with pytest.raises(Cut):
        run(folder / "cut", NullRail(capacity), cut, checkpoint_every=every)
    events = []
    resumed, state = run(folder / "cut", NullRail(capacity), events.append, checkpoint_every=every)
    assert events[0].step == (stop - 1) // every * every
    assert resumed.weight == whole.weight
    assert (state.step, state.position, state.trained_tokens) == (
        expected.step,
        expected.position,
        expected.trained_tokens,
    )


class Broken(NullRail):
    """Its loss, or its gradient, is not a number in the steps given."""

    def __init__(self, losses=(), norms=()):
        super().__init__()
        self.losses, self.norms, self.step = losses, norms, 0

    def accumulate(self, batch, weight):
        loss = super().accumulate(batch, weight)
        self.step += "update" in self.log[-2:-1] or self.step == 0 or "discard" in self.log[-2:-1]
        return float("nan") if self.step in self.losses else loss

    def update(self, learning_rate):
        if self.step in self.norms:
            self.gradient = 0.0
            self.log.append("update")
            return float("inf")
        return super().update(learning_rate)


def test_an_update_that_is_not_finite_is_skipped_and_counted(tmp_path):
    events = []
    rail, state = run(tmp_path, Broken(losses=[3], norms=[7]), events.append)
    assert rail.updates == 8 and state.step == 10 and state.skipped == events[-1].skipped == 2
    assert [(e.step, e.what, e.count) for e in kinds(events, Skipped)] == [
        (3, "loss is nan", 1),
        (7, "gradient is inf", 2),
    ]
    assert [e.step for e in kinds(events, Stepped)] == [1, 2, 4, 5, 6, 8, 9, 10]


def test_too_many_skipped_updates_are_a_failure(tmp_path):
    rail = Broken(losses=[2, 4, 6])
    with pytest.raises(Diverged, match=r"loss is nan at step 6; 3 updates"):
        run(tmp_path, rail, max_skipped=2)
    assert rail.updates == 3
    with pytest.raises(Diverged, match="step 2"):  # all there were
        run(tmp_path / "all", Broken(losses=[1, 2]), steps=2)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself SIGINT")
def test_ctrl_c_finishes_the_step_checkpoints_and_says_so(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    events = []

    def press(event):
        events.append(event)
        if isinstance(event, Stepped) and event.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    rail = NullRail()
    with pytest.raises(Interrupted, match=r"step [56] of 10"):
        run(tmp_path, rail, press)
    assert isinstance(events[-1], Checkpointed) and events[-1].step == rail.updates
    assert signal.getsignal(signal.SIGINT) is before
    assert run(tmp_path, NullRail())[0].updates == 10


@given(steps=st.integers(1, 300), warmup=st.integers(0, 50))
def test_the_learning_rate_rises_then_falls_and_is_never_zero(steps, warmup):
    warmup = min(warmup, steps - 1)
    r = recipe(steps=steps, warmup_steps=warmup)
    rates = [learning_rate(r, step) for step in range(steps)]
    assert all(0 < rate <= r.learning_rate for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert max(rates) == pytest.approx(r.learning_rate)
