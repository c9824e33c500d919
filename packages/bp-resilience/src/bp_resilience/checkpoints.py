"""Checkpoints: written beside and renamed, with a manifest; a torn one does not exist for readers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.errors import CheckpointUnusable, DiskFull
from bp_core.folders import damage, new_folder, sweep, writing
from bp_core.process_group import led
from bp_core.rail import Rail

from .clock import Clock

_STATE = "state.json"
_RUN = "run"  # in it: the id of the run, for a checkpoint that is copied elsewhere
_SPARE = 1.1  # of the size of the last checkpoint that must be free for the next


@dataclass(frozen=True)
class State:
    """Where a run stands, apart from what the rail holds. `position` counts examples, or packed rows, consumed.

    `relief` is the rail's level of saving memory. `evaluated` and `best_step` are steps, -1 for none; `worse` counts
    the evaluations since the best one.
    """

    micro_batch: int
    step: int = 0
    position: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    relief: int = 0
    skipped: int = 0
    eval_batch: int = 1
    evaluated: int = -1
    best_step: int = -1
    best_loss: float | None = None
    worse: int = 0


class Keeper:
    """The checkpoints of one run: `<folder>/step-000100/`.

    One is due every `every` steps, after so many minutes, and at the end. The last `keep` and the best one are kept.
    In a team all call it, and rank 0 alone touches the disk.
    """

    def __init__(
        self, folder: Path, every: int, keep: int, *, minutes: float | None = None, clock: Clock | None = None
    ) -> None:
        self.folder, self.every, self.keep, self.minutes = folder, every, keep, minutes
        self._clock = clock or Clock()
        self._saved_at = self._clock.now()
        self._saved: int | None = None
        self._torn: set[Path] = set()

    def due(self, state: State, steps: int) -> bool:
        """Whether `state` should be saved now; never twice for one step."""
        if state.step == 0 or self.has(state):
            return False
        late = self.minutes is not None and self._clock.now() - self._saved_at >= 60 * self.minutes
        best = state.best_step == state.evaluated == state.step
        return late or best or state.step == steps or state.step % self.every == 0

    def has(self, state: State) -> bool:
        return state.step == self._saved

    def save(self, state: State, rail: Rail) -> Path:
        """Write a checkpoint, then drop this run's older ones. Raises DiskFull with those before it intact."""
        team = rail.join()
        if team.size > 1:
            rail.collect()
        target = Path(led(team, lambda: str(self._write(state, rail))))
        self._saved, self._saved_at = state.step, self._clock.now()
        return target

    def _write(self, state: State, rail: Rail) -> Path:
        target = self._place(state.step)
        self._look_for_room()
        if target.exists():
            self._drop(target)
        with new_folder(target) as draft:
            rail.save(draft)
            record = {_RUN: self.folder.resolve().parent.name, **dataclasses.asdict(state)}
            (draft / _STATE).write_text(json.dumps(record), encoding="utf-8")
        self._torn.discard(target)
        self._prune(state)
        return target

    def restore(self, rail: Rail, warn: Callable[[str], None]) -> State | None:
        """Bring `rail` to the newest whole checkpoint; None if there is none. Raises CheckpointUnusable.

        `warn` is told of each one that is passed over because it is torn or altered.
        """
        found = led(rail.join(), lambda: self._newest(warn))
        if found is None:
            return None
        name, values = found
        state = State(**values)
        rail.restore(self.folder / name)
        self._saved = state.step
        return state

    def _newest(self, warn: Callable[[str], None]) -> tuple[str, dict[str, Any]] | None:
        """Name and state of the newest whole checkpoint."""
        sweep(self.folder, "step-")
        for folder in self._newest_first():
            wrong = damage(folder)
            if wrong is None:
                return folder.name, dataclasses.asdict(self._read(folder))
            warn(f"the checkpoint {folder.name} is passed over: {wrong}.")
            self._torn.add(folder)
        return None

    def restore_step(self, step: int, rail: Rail) -> bool:
        """Bring `rail` to the checkpoint of `step`; False, and nothing done, if it is not whole."""
        folder = self._place(step)
        if not led(rail.join(), lambda: damage(folder) is None):
            return False
        rail.restore(folder)
        return True

    def whole(self) -> Iterator[Path]:
        """Complete, unaltered checkpoints, newest first."""
        return (folder for folder in self._newest_first() if damage(folder) is None)

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _newest_first(self) -> list[Path]:
        found = (path for path in self.folder.glob("step-*") if path.name.removeprefix("step-").isdecimal())
        return sorted(found, key=_step, reverse=True)

    def _read(self, folder: Path) -> State:
        try:
            record = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            return State(**{name: value for name, value in record.items() if name != _RUN})
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointUnusable("its state cannot be read.", where=str(folder)) from error

    def _look_for_room(self) -> None:
        """Raises DiskFull if there is less than the last checkpoint took."""
        last = next(iter(self._newest_first()), None)
        if last is None:
            return
        need = round(_SPARE * sum(path.stat().st_size for path in last.rglob("*") if path.is_file()))
        free = shutil.disk_usage(self.folder).free
        if free < need:
            raise DiskFull(f"a checkpoint needs {need:,} bytes, {free:,} are free", where=str(self.folder))

    def _prune(self, state: State) -> None:
        """Drop what is old, and what was passed over because it is torn."""
        folders = self._newest_first()
        good = [folder for folder in folders if folder not in self._torn]
        for folder in set(folders) - {*good[: self.keep], self._place(state.best_step)}:
            self._drop(folder)

    def _drop(self, folder: Path) -> None:
        """Remove a checkpoint; renamed first, so that one half removed is not taken for a torn one."""
        aside = folder.with_name(f".{folder.name}.dropped")
        with writing(folder):
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            shutil.rmtree(aside)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
