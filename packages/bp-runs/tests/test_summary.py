import math

import pytest

from bp_core.events import Evaluated, Failed, Finished, MemoryShrunk, Started, Stepped
from bp_core.rail import Memory
from bp_runs import Summary


def stepped(step, loss, seconds=0.5):
    return Stepped(step, loss, 0.1, 1.0, 100, 40, seconds, Memory(5, 10 + step, 99))


def summary(*events):
    made = Summary()
    for event in events:
        made.add(event.as_dict())
    return made


def test_a_run_adds_up():
    made = summary(
        Started(0, 3), stepped(1, 3.0), stepped(2, 1.0), stepped(3, 2.0), Finished(3, 2.0, 300, 120, 1.5, 50)
    )
    assert (made.first_loss, made.last_loss, made.best_loss) == (3.0, 2.0, 1.0)
    assert (made.step, made.steps, made.tokens, made.targets, made.peak_memory) == (3, 3, 300, 120, 50)
    assert made.as_dict()["tokens_per_second"] == pytest.approx(200.0)


def test_a_resumed_run_forgets_the_error_and_keeps_the_first_loss():
    made = summary(Started(0, 9), stepped(1, 3.0), Failed(1, "RUNTIME_DIVERGED", "x", "y."))
    assert made.status == "failed" and made.error_code == "RUNTIME_DIVERGED"
    for event in (Started(1, 9), MemoryShrunk(1, 2), stepped(2, 2.5)):
        made.add(event.as_dict())
    assert made.status == "running" and made.error_code is None and made.first_loss == 3.0


def test_a_stop_that_was_asked_for_is_no_failure():
    assert summary(Started(0, 9), Failed(1, "RUNTIME_INTERRUPTED", "x", "y.")).status == "interrupted"


def test_losses_that_are_no_numbers_are_left_out():
    made = summary(Started(0, 9), stepped(1, math.nan), stepped(2, 2.0), stepped(3, math.inf))
    assert (made.first_loss, made.last_loss, made.best_loss) == (2.0, 2.0, 2.0)


def test_an_evaluation_that_is_no_finite_number_counts_for_nothing():
    made = summary(*(Evaluated(1, loss, None, 3, best=False) for loss in (math.nan, 0.5, math.inf, 0.0)))
    assert made.eval_loss == 0.0
