import contextlib
import os
import signal

import pytest

from bp_resilience import Signals
from bp_resilience.signals import STOPPING

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself SIGINT")


def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    for _ in range(100):  # a bytecode or two, in which Python looks at signals
        pass


def test_the_same_signals_stop_on_every_system_and_ctrl_break_on_windows():
    windows = {"SIGBREAK"} & set(signal.Signals.__members__)
    assert {number.name for number in STOPPING} == {"SIGINT", "SIGTERM"} | windows


@pytest.mark.parametrize("number", STOPPING)
def test_once_asks_and_twice_leaves_at_once(number):
    before = signal.getsignal(number)
    with Signals() as signals:
        assert not signals.stop_requested
        press(number)
        assert signals.stop_requested
        with pytest.raises(KeyboardInterrupt):
            press(number)
        assert signal.getsignal(number) is signal.SIG_DFL  # a third time ends the process
    assert signal.getsignal(number) is before


def test_handlers_come_back_with_the_outermost():
    before = signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        with signals:
            pass
        press()
        assert signals.stop_requested
    assert signal.getsignal(signal.SIGINT) is before


def test_at_once_means_the_first_one_and_one_that_python_drops_still_counts():
    class Dying:
        def __del__(self):
            with contextlib.suppress(KeyboardInterrupt):  # as Python itself does here, but with a warning
                press()

    with Signals(at_once=True) as signals:
        Dying()
        assert signals.stop_requested
    with Signals(at_once=True) as signals, pytest.raises(KeyboardInterrupt):
        press()


def test_what_a_launcher_passes_on_is_not_a_second_time(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Signals() as signals:
        press()
        press()  # from the terminal, and from the launcher
        assert signals.stop_requested
    monkeypatch.setattr("bp_resilience.signals._SECONDS_TO_RELAY", 0.0)
    with Signals() as signals, pytest.raises(KeyboardInterrupt):
        press()
        press()
