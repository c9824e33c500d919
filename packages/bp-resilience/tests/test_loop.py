import json
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bp_core.config import Recipe
from bp_core.errors import Diverged, Interrupted, OutOfMemory
from bp_core.events import Checkpointed, Finished, MemoryShrunk, Started, Stepped
from bp_core.examples import Batch
from bp_core.null_rail import NullRail
from bp_core.rail import Job
from bp_resilience import Keeper, learning_rate, train


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
        self.targets = sum(sum(row) for row in rows)
        self.tokens = sum(len(row) for row in rows)

    def split(self, micro_batch):
        for i in range(0, len(self.rows), micro_batch):
            part = self.rows[i : i + micro_batch]
            flat = [t for row in part for t in row]
            yield Batch(flat, flat, [len(row) for row in part])


class Rows:
    """Row n has n % 3 + 1 targets."""

    position = 0

    def take(self, count):
        rows = [[0] + [1] * (n % 3 + 1) for n in range(self.position, self.position + count)]
        self.position += count
        return Step(rows)

    def seek(self, position):
        self.position = position


def run(folder, rail=None, watch=lambda event: None, **changes):
    rail = rail or NullRail()
    r = recipe(**changes)
    rail.open(Job("none", recipe=r))
    state = train(rail, Rows(), r, Keeper(folder, r.checkpoint_every, r.keep_checkpoints), watch)
    return rail, state


def test_a_run_steps_reports_and_finishes(tmp_path):
    events = []
    rail, state = run(tmp_path, watch=events.append)
    assert rail.updates == state.step == 10 and state.position == 60
    assert type(events[0]) is Started and type(events[-1]) is Finished
    steps = [e for e in events if isinstance(e, Stepped)]
    assert [e.step for e in steps] == list(range(1, 11))
    assert steps[0].loss == pytest.approx(2.0) and steps[-1].loss < steps[0].loss
    assert sum(e.targets for e in steps) == state.targets == events[-1].targets
    assert all(json.loads(e.as_json())["event"] for e in events)


@pytest.mark.parametrize("capacity", [1, 2, 4, 5])
def test_out_of_memory_replays_the_whole_step_and_keeps_the_experiment(tmp_path, capacity):
    events = []
    plain, expected = run(tmp_path / "plain")
    small, state = run(tmp_path / "small", NullRail(capacity), events.append)
    assert small.weight == pytest.approx(plain.weight, rel=1e-12)
    assert (state.step, state.tokens, state.targets) == (expected.step, expected.tokens, expected.targets)
    shrinks = [e for e in events if isinstance(e, MemoryShrunk)]
    assert shrinks[-1].micro_batch <= capacity and all(e.step == 0 for e in shrinks)
    assert small.log.count("update") == 10 and small.log.count("discard") == len(shrinks)


def test_out_of_memory_at_one_example_is_the_users_to_solve(tmp_path):
    with pytest.raises(OutOfMemory):
        run(tmp_path, NullRail(capacity=0))


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path):
    class Broken(NullRail):
        def accumulate(self, batch, weight):
            return float("nan") if self.updates == 4 else super().accumulate(batch, weight)

    rail = Broken()
    with pytest.raises(Diverged, match="step 5"):
        run(tmp_path, rail)
    assert rail.updates == 4


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
    assert (state.step, state.position, state.targets) == (expected.step, expected.position, expected.targets)


def test_damaged_checkpoints_are_passed_over_and_old_ones_dropped(tmp_path):
    run(tmp_path)
    names = [folder.name for folder in sorted(tmp_path.iterdir())]
    assert names == ["step-000009", "step-000010"]
    keeper = Keeper(tmp_path, 3, 2)
    (tmp_path / "step-000010" / "null.json").write_text('{"updates": 99, "weight": 1}')
    (tmp_path / "step-000011").mkdir()
    assert [folder.name for folder in keeper.whole()] == ["step-000009"]
    rail = NullRail()
    assert keeper.restore(rail).step == 9 and rail.updates == 9


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
