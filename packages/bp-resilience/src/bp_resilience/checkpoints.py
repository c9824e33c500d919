"""Checkpoints: written beside and renamed, with a manifest; a torn one does not exist for readers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import CheckpointUnusable
from bp_core.folders import damage, new_folder
from bp_core.rail import Rail

_STATE = "state.json"


@dataclass(frozen=True)
class State:
    """Where a run stands, apart from what the rail holds. `position` counts examples, or packed rows, consumed."""

    micro_batch: int
    step: int = 0
    position: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0


class Keeper:
    """The checkpoints of one run: `<folder>/step-000100/`, every `every` steps and at the end, the last `keep` kept."""

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep

    def due(self, state: State, steps: int) -> bool:
        return state.step == steps or state.step % self.every == 0

    def save(self, state: State, rail: Rail) -> Path:
        """Write a checkpoint, then drop this run's older ones. Saving the same step again is done already."""
        target = self.folder / f"step-{state.step:06d}"
        if damage(target) is not None:
            shutil.rmtree(target, ignore_errors=True)
            with new_folder(target) as draft:
                rail.save(draft)
                (draft / _STATE).write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
        self._prune()
        return target

    def restore(self, rail: Rail) -> State | None:
        """Bring `rail` to the newest whole checkpoint; None if there is none. Raises CheckpointUnusable."""
        for folder in self.whole():
            try:
                state = State(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise CheckpointUnusable("its state cannot be read.", where=str(folder)) from error
            rail.restore(folder)
            return state
        return None

    def whole(self) -> Iterator[Path]:
        """Complete, unaltered checkpoints, newest first."""
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            if damage(folder) is None:
                yield folder

    def _prune(self) -> None:
        for folder in sorted(self.folder.glob("step-*"), reverse=True)[self.keep :]:
            shutil.rmtree(folder)
