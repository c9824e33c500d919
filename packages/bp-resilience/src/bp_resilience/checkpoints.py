"""Checkpoints: each is written to a temporary folder and then renamed; one without a valid manifest is ignored."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.errors import CheckpointUnusable, DiskFull
from bp_core.folders import damage, new_folder, sweep, writing
from bp_core.process_group import on_rank0
from bp_core.rail import Rail
from bp_core.renaming import rename

from .clock import Clock

_STATE = "state.json"
_RUN = "run"  # key in the state file: the id of the run, for a checkpoint that is copied elsewhere
_OLD_NAMES = {"relief": "memory_saving", "targets": "trained_tokens"}  # in checkpoints of earlier versions
_SPARE = 1.1  # free disk space needed for a checkpoint, as a multiple of the size of the last one


@dataclass(frozen=True)
class State:
    """The progress of a run; weights and optimizer are the rail's. `position` counts the examples or packed rows used.

    `tokens` and `trained_tokens` are totals so far. `memory_saving` is the level reached with `Rail.save_memory`.
    `evaluated` and `best_step` are step numbers, -1 for none; `worse` counts the evaluations since the best one.
    """

    micro_batch: int
    step: int = 0
    position: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0
    memory_saving: int = 0
    skipped: int = 0
    eval_batch: int = 1
    evaluated: int = -1
    best_step: int = -1
    best_loss: float | None = None
    worse: int = 0


class CheckpointManager:
    """The checkpoints of one run: `<folder>/step-000100/`.

    One is due every `every` steps, every `minutes` minutes, at the best evaluation and at the end. The newest `keep`
    and the best one are kept. In a process group every process calls the methods, and only rank 0 writes files.
    """

    def __init__(
        self, folder: Path, every: int, keep: int, *, minutes: float | None = None, clock: Clock | None = None
    ) -> None:
        self.folder, self.every, self.keep, self.minutes = folder, every, keep, minutes
        self._clock = clock or Clock()
        self._saved_at = self._clock.now()
        self._saved: int | None = None
        self._damaged: set[Path] = set()

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
        """Write a checkpoint, then delete older ones. Raises DiskFull; the older ones are intact then."""
        group = rail.join()
        if group.size > 1:
            rail.collect()
        target = Path(on_rank0(group, lambda: str(self._write(state, rail))))
        self._saved, self._saved_at = state.step, self._clock.now()
        return target

    def _write(self, state: State, rail: Rail) -> Path:
        target = self._folder(state.step)
        self._check_free_space()
        if target.exists():
            self._drop(target)
        with new_folder(target) as draft:
            rail.save(draft)
            record = {_RUN: self.folder.resolve().parent.name, **dataclasses.asdict(state)}
            (draft / _STATE).write_text(json.dumps(record), encoding="utf-8")
        self._damaged.discard(target)
        self._prune(state)
        return target

    def restore(self, rail: Rail, warn: Callable[[str], None]) -> State | None:
        """Load the newest undamaged checkpoint into `rail`; None if there is none. Raises CheckpointUnusable.

        `warn` gets a message for each damaged checkpoint that is passed over.
        """
        newest = on_rank0(rail.join(), lambda: self._newest(warn))
        if newest is None:
            return None
        name, values = newest
        state = State(**values)
        rail.restore(self.folder / name)
        self._saved = state.step
        return state

    def _newest(self, warn: Callable[[str], None]) -> tuple[str, dict[str, Any]] | None:
        """Folder name and state of the newest undamaged checkpoint."""
        sweep(self.folder, "step-")
        for folder in self._newest_first():
            wrong = damage(folder)
            if wrong is None:
                return folder.name, dataclasses.asdict(self._read(folder))
            warn(f"the checkpoint {folder.name} is passed over: {wrong}.")
            self._damaged.add(folder)
        return None

    def restore_step(self, step: int, rail: Rail) -> bool:
        """Load the checkpoint of `step` into `rail`; False, with nothing changed, if it is missing or damaged."""
        folder = self._folder(step)
        if not on_rank0(rail.join(), lambda: damage(folder) is None):
            return False
        rail.restore(folder)
        return True

    def _folder(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def _newest_first(self) -> list[Path]:
        folders = {path.name.removeprefix("step-"): path for path in self.folder.glob("step-*")}
        steps = sorted(filter(str.isdecimal, folders), key=int, reverse=True)
        return [folders[step] for step in steps]

    def _read(self, folder: Path) -> State:
        try:
            record = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            record.pop(_RUN, None)
            return State(**{_OLD_NAMES.get(name, name): value for name, value in record.items()})
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointUnusable("its state cannot be read.", where=str(folder)) from error

    def _check_free_space(self) -> None:
        """Raises DiskFull if there is less free space than the last checkpoint took."""
        last = next(iter(self._newest_first()), None)
        if last is None:
            return
        need = round(_SPARE * sum(path.stat().st_size for path in last.rglob("*") if path.is_file()))
        free = shutil.disk_usage(self.folder).free
        if free < need:
            raise DiskFull(f"a checkpoint needs {need:,} bytes, {free:,} are free", where=str(self.folder))

    def _prune(self, state: State) -> None:
        """Delete old checkpoints, and damaged ones that were passed over."""
        folders = self._newest_first()
        good = [folder for folder in folders if folder not in self._damaged]
        for folder in set(folders) - {*good[: self.keep], self._folder(state.best_step)}:
            self._drop(folder)

    def _drop(self, folder: Path) -> None:
        """Delete a checkpoint; it is renamed first, so that one half deleted is not taken for a damaged one."""
        aside = folder.with_name(f".{folder.name}.dropped")
        with writing(folder):
            shutil.rmtree(aside, ignore_errors=True)
            rename(folder, aside)
            shutil.rmtree(aside)
