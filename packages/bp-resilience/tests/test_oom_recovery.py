import pytest
from tiny_runs import Time, held_out, kinds, run

from bp_core.errors import OutOfMemory
from bp_core.events import EvaluationShrunk, MemoryShrunk, Relieved, Started, Stepped
from bp_core.null_rail import NullRail
from bp_core.rail import Memory
from bp_resilience import LoopContext


def test_what_saves_memory_is_tried_when_one_example_is_too_much(tmp_path):
    plain, _ = run(tmp_path / "plain")
    events = []
    rail, state = run(tmp_path / "small", NullRail(capacity=-1, savings=3), events.append)
    assert [(e.level, e.what) for e in kinds(events, Relieved)] == [(1, "memory saving 1"), (2, "memory saving 2")]
    assert rail.weight == pytest.approx(plain.weight, rel=1e-12)
    assert (state.micro_batch, state.memory_saving) == (1, 2)


def test_when_nothing_is_left_the_error_says_what_was_tried(tmp_path):
    with pytest.raises(
        OutOfMemory, match=r"tried: one example at a time, memory saving 1, memory saving 2, memory saving 3"
    ) as caught:
        run(tmp_path, NullRail(capacity=-3, savings=9))
    assert "--max-length" in caught.value.fix


def test_a_resumed_run_saves_memory_from_the_start(tmp_path):
    run(tmp_path, NullRail(capacity=0, savings=1), steps=6)
    events = []
    rail, state = run(tmp_path, NullRail(capacity=0, savings=1), events.append, steps=10)
    assert rail.log[0] == "save_memory 1" and not kinds(events, Relieved | MemoryShrunk)
    assert (state.micro_batch, state.memory_saving, rail.updates) == (1, 1, 10)


@pytest.mark.parametrize("verb", ["accumulate", "update"])
def test_the_hosts_memory_counts_too(tmp_path, verb):
    class Short(NullRail):
        failed = False

    def fail(self, *arguments):
        if self.updates == 3 and not self.failed:
            self.failed = True
            raise MemoryError
        return getattr(NullRail, verb)(self, *arguments)

    setattr(Short, verb, fail)
    events = []
    rail, state = run(tmp_path / "short", Short(), events.append)
    assert [(e.step, e.micro_batch) for e in kinds(events, MemoryShrunk)] == [(3, 3)]
    assert rail.weight == pytest.approx(run(tmp_path / "plain")[0].weight, rel=1e-12) and state.step == 10


def test_evaluation_shrinks_by_itself(tmp_path):
    class Short(NullRail):
        def evaluate(self, batch):
            if len(batch.lengths) > 1 and "evaluating" in self.log:
                raise OutOfMemory("too many to evaluate.")
            return super().evaluate(batch)

        def accumulate(self, batch, weight):
            self.log = [word for word in self.log if word != "evaluating"]
            loss = super().accumulate(batch, weight)
            self.log.append("evaluating")
            return loss

    events = []
    _, state = run(tmp_path, Short(), events.append, context=LoopContext(held_out()), eval_every=5)
    assert [e.examples for e in kinds(events, EvaluationShrunk)] == [3, 1]
    assert (state.micro_batch, state.eval_batch, state.evaluated) == (6, 1, 10)


@pytest.mark.parametrize(("free", "shrinks"), [(1, True), (50, False), (None, False)])
def test_a_spill_into_the_hosts_memory_makes_the_next_steps_smaller(tmp_path, free, shrinks):
    time = Time()

    class Slow(NullRail):
        def accumulate(self, batch, weight):
            time.seconds += 10 if self.updates == 7 and len(batch.lengths) > 3 else 1
            return super().accumulate(batch, weight)

        def memory(self):
            return Memory(99, 99, 100, free)

    events = []
    rail, state = run(tmp_path, Slow(), events.append, context=LoopContext(clock=time.clock))
    assert [(e.step, e.micro_batch, e.spilled) for e in kinds(events, MemoryShrunk)] == ([(8, 3, True)] * shrinks)
    assert len(kinds(events, Stepped)) == rail.updates == 10 and "discard" not in rail.log
    assert state.micro_batch == (3 if shrinks else 6) and kinds(events, Started)
