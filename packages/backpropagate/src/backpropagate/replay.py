"""A run that is recorded, by its name: the rest of it, or all of it again from its run.lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from bp_core.config import TrainConfig
from bp_core.errors import BadValue, NotReplayable, ReplayMismatch
from bp_core.settings import Setting, known, settings
from bp_runs import run_folder
from bp_runs.lock_file import LOCK_FILE, Lock

from .models.targets import Artifact
from .trainer import Trainer
from .training.prepare import to_resume
from .training.run import Run

_LOCK_SUFFIX = Path(LOCK_FILE).suffix
# A hash that is another one when these are set is no surprise.
_CHANGED_BY = {"model": ("template", "tokenizer", "base"), "samples": ("data",), "eval_data": ("evaluation data",)}


def resume(name: str, output: str | None = None, *, steps: int | None = None, allow_changes: bool = False) -> Run:
    """Go on with a run as it was begun. NEWEST is the newest unfinished one in `output`; more steps extend a run.

    Raises TargetNotFound, NothingToResume, and what `Trainer.train` raises.
    """
    run = to_resume(name, Path(output or TrainConfig.output).resolve())
    settings, data = run_folder.settings_of(run)
    trainer = Trainer(**settings | {"output": output or str(run.path.parent.parent)})
    return trainer.train(data, steps=steps, resume=run.id, allow_changes=allow_changes)


def replay(name: str, changes: Mapping[str, Any], warn: Callable[[str], None]) -> Run:
    """Train again as the run `name` (id, folder or run.lock file) did, with `changes` to its settings.

    Other versions and hardware are told through `warn`. Raises TargetNotFound, NotReplayable, ReplayMismatch, BadValue.
    """
    path = Path(name)
    lock = Lock.read(path if path.suffix == _LOCK_SUFFIX else Artifact.find(name).require_run().path)
    known([*changes, *lock.settings], TrainConfig)
    if lock.data is None:
        raise NotReplayable("its data was given as Python rows or on standard input, not as a file.", where=lock.run)
    if not Path(lock.data).exists():
        raise ReplayMismatch(f"the data is gone: {lock.data}.")
    expected = _expected(lock, changes)

    def check(now: Lock) -> None:
        for difference in surroundings(lock, now):
            warn(difference)
        wrong = [f"the {key} changed" for key, value in expected.items() if now.hashes.get(key) != value]
        if wrong:
            raise ReplayMismatch(f"{'; '.join(wrong)} since run {lock.run}.")

    trainer = Trainer(**{**lock.settings, **changes})
    try:
        return trainer.train(lock.data, check=check)
    finally:
        trainer.close()


def surroundings(then: Lock, now: Lock) -> list[str]:
    """Versions and hardware that differ: the replay may end in other last bits."""
    pairs = [(then.packages, now.packages), (then.hardware, now.hardware)]
    return [
        f"{name} was {old.get(name)}, is {new.get(name)}"
        for old, new in pairs
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def parsed(assignments: Sequence[str]) -> dict[str, Any]:
    """Settings out of `name=value` words. Raises BadValue for an unknown name or a value of the wrong type."""
    pairs = [word.partition("=") for word in assignments]
    if missing := [name for name, sign, _ in pairs if not sign]:
        raise BadValue(f"{missing[0]!r} is not of the form name=value.")
    names = {name.replace("-", "_"): value for name, _, value in pairs}
    known(names, TrainConfig)
    kinds = {setting.name: setting for setting in settings(TrainConfig)}
    return {name: _value(kinds[name], text) for name, text in names.items()}


def _value(setting: Setting, text: str) -> Any:
    """`text` as the setting's type; `none` leaves it open again, where it may be."""
    kinds = get_args(setting.type) or (setting.type,)
    if NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text  # TrainConfig says what is wrong with it, if it is


def _expected(lock: Lock, changes: Mapping[str, Any]) -> dict[str, str]:
    surprising = {key for name in changes for key in _CHANGED_BY.get(name, ())}
    return {key: value for key, value in lock.hashes.items() if key not in surprising}
