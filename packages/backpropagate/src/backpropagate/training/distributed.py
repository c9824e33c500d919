"""Training in several processes that a launcher started: one run, which rank 0 keeps the records of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bp_core.errors import BackendUnavailable, PeersDiffer
from bp_core.process_group import ProcessGroup, launch_env
from bp_core.rail import Probe, Rail
from bp_core.recipe import Recipe
from bp_runs.versions import versions

from .run import TrainingJob


def join_processes(rail: Rail, probe: Probe) -> tuple[ProcessGroup, Probe]:
    """The team, and its device. Raises PeerLost, BackendUnavailable for a rail that knows no teams."""
    team, wanted = rail.join(), launch_env().size
    if team.size != wanted:
        message = f"a launcher started {wanted} processes, and this backend trains in one."
        raise BackendUnavailable(message, fix="Start it without the launcher, or with --backend cuda or cpu.")
    several = f"{team.size} × " if team.size > 1 else ""
    return team, dataclasses.replace(probe, device=several + probe.device)


@contextmanager
def leave_on_error(team: ProcessGroup) -> Iterator[None]:
    """On an error let the others know, who may be waiting for this process."""
    try:
        yield
    except BaseException:
        team.leave()
        raise


def announcement(work: TrainingJob) -> dict[str, Any]:
    """What rank 0 tells the others of the run that it is about to begin."""
    same = work.facts | {f"version of {name}": number for name, number in versions().items()}
    return {"recipe": dataclasses.asdict(work.plan.recipe), "same": same}


def follow_recipe(work: TrainingJob, lead: Mapping[str, Any]) -> TrainingJob:
    """The job with rank 0's recipe: what depends on free memory may differ here. Raises PeersDiffer."""
    mine = announcement(work)["same"]
    other = [name for name, value in lead["same"].items() if mine[name] != value]
    if other:
        raise PeersDiffer(f"process {work.rail.join().rank} and process 0 differ in: {', '.join(other)}.")
    return dataclasses.replace(work, plan=dataclasses.replace(work.plan, recipe=Recipe(**lead["recipe"])))
