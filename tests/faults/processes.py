"""Two processes where one was meant, and clocks that jump."""

import itertools
import os
import signal
import time

from bp_core.errors import RunAlive

from .runs import Child, same, training, weights


def one_output(model, rows, folder, reference):
    """Two runs at once into one output: both adapters are there in the end, one in place, one with its run."""
    other = folder / "alone"
    child = Child(training(model, rows, other, resume=False, seed=7), folder / "alone.log")
    assert child.end() == 0, child.said()
    both = folder / "both"
    children = [
        Child(training(model, rows, both, resume=False, **changes), folder / f"both-{number}.log")
        for number, changes in enumerate(({}, {"seed": 7}))
    ]
    for child in children:
        assert child.end() == 0, child.said()
    adapters = [both / "lora", *both.glob("runs/*/lora")]
    found = {(path / "adapter_model.safetensors").read_bytes() for path in adapters}
    assert found == {weights(reference), weights(other)}


def one_run(model, rows, folder, reference):
    """A run that is being trained is not taken over, and what tried it changes nothing."""
    output = folder / "taken"
    first = Child(training(model, rows, output, resume=False), folder / "first.log")
    assert first.wait_for(b"S"), first.said()
    second = Child(training(model, rows, output, resume=True), folder / "second.log")
    assert second.end() == 1 and RunAlive.__name__ in second.said(), second.said()
    assert first.end() == 0, first.said()
    same(output, reference)


def clock_jumps(model, rows, folder, reference):
    """A wall clock that jumps by years, back and forth, while a run is trained, killed and resumed."""
    output, log = folder / "jumping", folder / "jump.log"
    first = Child(_jumping(training(model, rows, output, resume=False)), log)
    assert first.wait_for(b"c"), first.said()
    os.kill(first.pid, signal.SIGKILL)
    first.end()
    second = Child(_jumping(training(model, rows, output, resume=True)), log)
    assert second.end() == 0, second.said()
    same(output, reference)


def _jumping(work):
    """Work done under such a clock."""
    years = itertools.cycle((2030, 2001, 2070, 1971))
    local = time.localtime

    def jumped(tell):
        time.time = lambda: (next(years) - 1970) * 31557600.0
        time.localtime = lambda moment=None: local(time.time() if moment is None else moment)
        time.gmtime = time.localtime
        format_time = time.strftime
        time.strftime = lambda style, moment=None: format_time(style, moment or time.localtime())
        work(tell)

    return jumped
