import shutil
from collections import namedtuple

import pytest
from tiny_runs import Time, kinds, run

from bp_core.errors import DiskFull, Interrupted
from bp_core.events import Checkpointed, Continued, Paused
from bp_core.folders import damage
from bp_core.null_rail import NullRail
from bp_resilience import LoopContext, Signals

Usage = namedtuple("Usage", "total used free")


class Full(NullRail):
    """The disk has no room for a checkpoint from update 6 on, until a given second."""

    def __init__(self, time, until):
        super().__init__()
        self.time, self.until = time, until

    def save(self, folder):
        super().save(folder)
        if self.updates >= 6 and self.time.seconds < self.until:
            with open("/dev/full", "wb", buffering=0) as device:
                device.write(b"x")


def test_a_full_disk_is_waited_for(tmp_path):
    time, events = Time(), []
    rail, _ = run(tmp_path, Full(time, until=100), events.append, LoopContext(clock=time.clock))
    assert [event.step for event in kinds(events, Paused)] == [6]
    assert "disk is full" in kinds(events, Paused)[0].describe() and kinds(events, Continued)[0].seconds == 120
    assert [event.step for event in kinds(events, Checkpointed)] == [3, 6, 9, 10] and rail.updates == 10


def test_it_is_waited_for_as_long_as_was_said_and_the_last_checkpoint_is_whole(tmp_path):
    time = Time()
    with pytest.raises(DiskFull):
        run(tmp_path, Full(time, until=9999), context=LoopContext(clock=time.clock), disk_wait=10)
    assert time.seconds == 600
    assert [(folder.name, damage(folder)) for folder in tmp_path.iterdir()] == [("step-000003", None)]
    assert run(tmp_path)[0].updates == 10


def test_less_room_than_the_last_checkpoint_took_is_not_tried(tmp_path, monkeypatch):
    time = Time()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1000, 900, 100))
    with pytest.raises(DiskFull, match="100 are free"):
        run(tmp_path, context=LoopContext(clock=time.clock), disk_wait=1)


def test_a_stop_while_waiting_says_that_the_checkpoint_before_is_whole(tmp_path):
    time, signals = Time(), Signals()

    def watch(event):
        signals.stop_requested = signals.stop_requested or isinstance(event, Paused)

    with pytest.raises(Interrupted, match="step 6 while the disk was full"):
        run(tmp_path, Full(time, until=9999), watch, LoopContext(clock=time.clock, signals=signals))
