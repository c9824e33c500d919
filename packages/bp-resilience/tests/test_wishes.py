"""What a user wishes between two steps: to pause, to go on, to stop."""

import pytest
from tiny_runs import Time, kinds, run

from bp_core.errors import Interrupted
from bp_core.events import Continued, Paused, Stepped
from bp_resilience import LoopContext


def test_a_run_waits_until_it_may_go_on(tmp_path):
    events, time = [], Time()

    def wish():
        wished = len(kinds(events, Stepped)) == 3 and not kinds(events, Continued) and time.seconds < 7
        return "pause" if wished else "continue"

    _, state = run(tmp_path, watch=events.append, context=LoopContext(wish=wish, clock=time.clock))
    assert kinds(events, Paused) == [Paused(3, "as wished")]
    assert kinds(events, Continued) == [Continued(3, 7.0)]
    assert (state.step, len(kinds(events, Stepped))) == (10, 10)


def test_a_run_that_is_to_stop_writes_a_checkpoint_and_goes_on_later(tmp_path):
    events = []
    stopping = LoopContext(wish=lambda: "stop" if len(kinds(events, Stepped)) == 4 else "")
    with pytest.raises(Interrupted, match="stopped after step 4 of 10; a checkpoint was written"):
        run(tmp_path, watch=events.append, context=stopping)
    assert run(tmp_path)[1].step == 10


def test_a_paused_run_can_be_stopped(tmp_path):
    time = Time()
    wishes = LoopContext(wish=lambda: "pause" if time.seconds < 3 else "stop", clock=time.clock)
    with pytest.raises(Interrupted):
        run(tmp_path, context=wishes)
