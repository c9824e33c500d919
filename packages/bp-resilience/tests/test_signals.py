import os
import signal

import pytest

from bp_resilience import Signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself SIGINT")


def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    for _ in range(100):  # a bytecode or two, in which Python looks at signals
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_asks_and_twice_leaves_at_once(number):
    before = signal.getsignal(number)
    with Signals() as signals:
        assert not signals.asked
        press(number)
        assert signals.asked
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
        assert signals.asked
    assert signal.getsignal(signal.SIGINT) is before
