"""Answers while training: when they are due, and that they cost the training nothing."""

from tiny_runs import kinds, run

from bp_core.errors import OutOfMemory
from bp_core.events import Warned
from bp_resilience import LoopContext


def test_answers_are_asked_for_every_so_many_steps(tmp_path):
    asked = []
    run(tmp_path, context=LoopContext(sample=asked.append), sample_every=4)
    assert asked == [4, 8]


def test_none_are_asked_for_unless_it_is_wished(tmp_path):
    asked = []
    run(tmp_path, context=LoopContext(sample=asked.append))
    assert asked == []


def test_memory_that_runs_out_ends_the_answers_and_not_the_training(tmp_path):
    events, asked = [], []

    def sample(step):
        asked.append(step)
        raise OutOfMemory("too much")

    _, state = run(tmp_path, watch=events.append, context=LoopContext(sample=sample), sample_every=2)
    assert asked == [2] and state.step == 10
    assert ["no more answers" in event.message for event in kinds(events, Warned)] == [True]
