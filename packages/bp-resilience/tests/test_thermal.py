import importlib.util

from tiny_runs import Time, kinds, run

from bp_core.events import Continued, Paused, Stepped, Warned
from bp_core.null_rail import NullRail
from bp_resilience import LoopContext, Signals, nvml


class Oven:
    """A card that is hot from second 20 on, and cools by a degree every 10 seconds of rest."""

    def __init__(self, time, failing=False):
        self.time, self.failing, self.readings = time, failing, 0

    def __call__(self):
        self.readings += 1
        if self.failing:
            return None
        return 60.0 if self.time.seconds < 20 else 95.0 - (self.time.seconds - 20) / 10


class Working(NullRail):
    """A step takes four seconds."""

    def __init__(self, time):
        super().__init__()
        self.time = time

    def update(self, learning_rate):
        self.time.seconds += 4
        return super().update(learning_rate)


def test_a_hot_card_is_waited_for_until_it_is_well_below(tmp_path):
    time, events = Time(), []
    oven = Oven(time)
    _, state = run(tmp_path, Working(time), events.append, LoopContext(sensor=oven, clock=time.clock), max_temp=88)
    (paused,), (continued,) = kinds(events, Paused), kinds(events, Continued)
    assert "95 °C, allowed are 88" in paused.describe() and 145 <= continued.seconds <= 155  # 95 → 80 °C
    assert state.seconds == 40 and sum(e.seconds for e in kinds(events, Stepped)) == 40  # a pause is not work
    assert 4 <= paused.step <= 6 and state.step == 10


def test_a_pause_has_a_shortest_length(tmp_path):
    time, events = Time(), []
    context = LoopContext(sensor=lambda: 99.0 if time.seconds < 10 else 20.0, clock=time.clock)
    run(tmp_path, Working(time), events.append, context, cooldown=77)
    assert [event.seconds for event in kinds(events, Continued)] == [80]  # looked at every 5 s


def test_a_sensor_that_fails_says_so_once_and_the_run_goes_on(tmp_path):
    time, events = Time(), []
    oven = Oven(time, failing=True)
    _, state = run(tmp_path, Working(time), events.append, LoopContext(sensor=oven, clock=time.clock))
    (warned,) = kinds(events, Warned)
    assert "temperature cannot be read" in warned.describe() and oven.readings == 1 and state.step == 10


def test_a_stop_ends_a_pause(tmp_path):
    time, signals, events = Time(), Signals(), []

    def watch(event):
        events.append(event)
        signals.stop_requested = signals.stop_requested or isinstance(event, Paused)

    context = LoopContext(sensor=lambda: 99.0, clock=time.clock, signals=signals)
    try:
        run(tmp_path, Working(time), watch, context)
    except Exception as error:  # noqa: BLE001
        assert type(error).__name__ == "Interrupted"
    assert len(kinds(events, Continued)) == 1 and time.seconds < 10


def test_no_card_means_no_temperature():
    assert importlib.util.find_spec("pynvml"), "bp-resilience[nvidia] belongs to the development environment"
    assert nvml("GPU-00000000-0000-0000-0000-000000000000")() is None
