"""What each process of a team takes of the work, and time and heat as all of them see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from bp_core.examples import Batch
from bp_core.team import Team

from .clock import Clock
from .heat import Sensor


def share(split: Callable[[int], Iterable[Batch]], rows: int, micro_batch: int, team: Team) -> Iterator[Batch]:
    """This process's micro-batches of a step of so many rows: as many as the others have, if the rows allow that.

    `split` cuts the step into micro-batches of at most so many rows. Nothing where there are fewer rows than processes.
    """
    if team.size > 1:
        rounds = -(-rows // (team.size * micro_batch))
        micro_batch = -(-rows // (team.size * rounds))
    return islice(split(micro_batch), team.rank, None, team.size)


def rounds(batches: Iterable[Batch], team: Team) -> Iterator[Batch | None]:
    """One batch a round for this process, None where none is left for it; everybody has the same number of rounds."""
    waiting = iter(batches)
    while taken := list(islice(waiting, team.size)):
        yield taken[team.rank] if team.rank < len(taken) else None


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
