"""What each process of a team takes of the work, and time and heat as all of them see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from bp_core.examples import Batch
from bp_core.process_group import Team

from .clock import Clock
from .thermal import Sensor


def share(
    split: Callable[[int], Iterable[Batch]], rows: int, micro_batch: int, team: Team, *, even: bool = False
) -> Iterator[tuple[Batch, int]]:
    """This process's micro-batches of a step of so many rows, each to count once: as many as the others have, if the
    rows allow that.

    `split` cuts the step into micro-batches of at most so many rows. Nothing where there are fewer rows than processes.
    `even`: just as many as the others have; what is made up for that counts 0 times.
    """
    if team.size > 1:
        turns = -(-rows // (team.size * micro_batch))
        micro_batch = -(-rows // (team.size * turns))
    for batch, counts in rounds(split(micro_batch), team):
        if counts or even:
            yield batch, int(counts)


def rounds(batches: Iterable[Batch], team: Team) -> Iterator[tuple[Batch, bool]]:
    """One batch a round for this process; everybody has the same number of rounds.

    Where none is left for it, it has another's, which does not count.
    """
    waiting = iter(batches)
    while taken := list(islice(waiting, team.size)):
        mine = team.rank < len(taken)
        yield taken[team.rank if mine else 0], mine


def common_clock(clock: Clock, team: Team) -> Clock:
    """The time of rank 0, so that all come to the same decisions."""
    return Clock(lambda: float(team.gather(clock.now())[0]), clock.sleep)


def hottest(sensor: Sensor | None, team: Team) -> Sensor | None:
    """The temperature of the hottest card; None if nobody has a sensor."""
    if not any(team.gather(sensor is not None)):
        return None

    def read() -> float | None:
        found = team.gather(sensor() if sensor else None)
        return max((value for value in found if value is not None), default=None)

    return read
