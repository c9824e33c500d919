"""Data-parallel training: which micro-batches each process computes, and clock and temperature common to all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from bp_core.examples import Batch
from bp_core.process_group import ProcessGroup

from .clock import Clock
from .thermal import Sensor


def own_micro_batches(
    split: Callable[[int], Iterable[Batch]], rows: int, micro_batch: int, group: ProcessGroup, *, pad: bool = False
) -> Iterator[tuple[Batch, int]]:
    """This process's micro-batches of one step of `rows` rows, each with its weight, 1 or 0.

    `split(n)` cuts the step into micro-batches of at most n rows; n is chosen so that all ranks get the same number of
    them where the rows allow it. A process gets none if there are fewer rows than processes. `pad`: repeat
    micro-batches, with weight 0, until every rank has the same number.
    """
    if group.size > 1:
        turns = -(-rows // (group.size * micro_batch))
        micro_batch = -(-rows // (group.size * turns))
    for batch, counts in rounds(split(micro_batch), group):
        if counts or pad:
            yield batch, int(counts)


def rounds(batches: Iterable[Batch], group: ProcessGroup) -> Iterator[tuple[Batch, bool]]:
    """Deal the batches out in rounds, one a process, and yield this process's batch of each round.

    Where the last round has none left for it, it gets rank 0's batch and False: the batch does not count.
    """
    waiting = iter(batches)
    while dealt := list(islice(waiting, group.size)):
        counts = group.rank < len(dealt)
        yield dealt[group.rank if counts else 0], counts


def rank0_clock(clock: Clock, group: ProcessGroup) -> Clock:
    """The time of rank 0, so that all processes take the same decisions."""
    return Clock(lambda: float(group.gather(clock.now())[0]), clock.sleep)


def hottest_card(sensor: Sensor | None, group: ProcessGroup) -> Sensor | None:
    """A sensor that reads the highest temperature of all processes' cards; None if no process has a sensor."""
    if not any(group.gather(sensor is not None)):
        return None

    def read() -> float | None:
        readings = group.gather(sensor() if sensor else None)
        return max((reading for reading in readings if reading is not None), default=None)

    return read
