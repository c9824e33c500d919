"""A run that is recorded, by its name: the rest of it, or all of it again from its run.lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_core import environment
from bp_core.config import TrainConfig
from bp_core.errors import BadValue, FileMissing, NotReplayable, ReplayMismatch
from bp_core.settings import known, settings
from bp_data.reading.files import require
from bp_runs import run_folder
from bp_runs.lock_file import LOCK_FILE, Lock, surroundings
from bp_runs.run_folder import RUN_FILE, RunFolder

from .models.published import weights_in
from .models.targets import Artifact
from .trainer import Trainer
from .training.prepare import to_resume
from .training.run import Run

_LOCK_SUFFIX = Path(LOCK_FILE).suffix
# A hash that is another one when these are set is no surprise.
_CHANGED_BY = {"model": ("template", "tokenizer", "base"), "samples": ("data",), "eval_data": ("evaluation data",)}
_NO_MATTER = {"output", "report_to"}  # settings that the weights do not depend on


def resume(name: str, output: str | None = None, *, steps: int | None = None, allow_changes: bool = False) -> Run:
    """Go on with a run as it was begun. NEWEST is the newest unfinished one in `output`; more steps extend a run, then
    also the newest finished one where all are.

    Raises TargetNotFound, NothingToResume, and what `Trainer.train` raises.
    """
    run = to_resume(name, Path(output or TrainConfig.output).resolve(), extends=steps is not None)
    settings, data = run_folder.settings_of(run)
    trainer = Trainer(**settings | {"output": output or str(run.path.parent.parent)})
    return trainer.train(data, steps=steps, resume=run.id, allow_changes=allow_changes)


def replay(name: str, changes: Mapping[str, Any], warn: Callable[[str], None]) -> Run:
    """Train again as the run `name` (id, folder or run.lock file) did, with `changes` to its settings.

    Other versions, another processor, and a result that is not the same bit for bit are told through `warn`. Raises
    TargetNotFound, NotReplayable, ReplayMismatch, BadValue.
    """
    path = Path(name)
    if path.suffix != _LOCK_SUFFIX:
        path = Artifact.find(name).require_run().path
    lock = Lock.read(path)
    known([*changes, *lock.settings], TrainConfig)
    if lock.data is None:
        raise NotReplayable("its data was given as Python rows or on standard input, not as a file.", where=lock.run)
    for source in [lock.data] if isinstance(lock.data, str) else lock.data:
        try:
            require(source)
        except FileMissing as error:
            raise ReplayMismatch(f"the data is gone: {source}.") from error
    no_surprise = {key for name in changes for key in _CHANGED_BY.get(name, ())}
    others: list[str] = []

    def check(now: Lock) -> None:
        others.extend(surroundings(lock, now))
        for difference in others:
            warn(difference)
        changed = [key for key, value in lock.hashes.items() if now.hashes.get(key) != value]
        wrong = [f"the {key} changed" for key in changed if key not in no_surprise]
        if wrong:
            raise ReplayMismatch(f"{'; '.join(wrong)} since run {lock.run}.")

    trainer = Trainer(**{**lock.settings, **changes})
    try:
        run = trainer.train(lock.data, check=check)
    finally:
        trainer.close()
    before = {} if changes.keys() - _NO_MATTER else _weights(path, lock)
    if before and before != weights_in(run.adapter):
        reason = f"That may be why: {'; '.join(others)}." if others else "Versions and hardware are the same."
        promise = f"the weights are not those of run {lock.run}, bit for bit, which is promised on one processor."
        warn(f"{promise} {reason}")
    return run


def _weights(path: Path, lock: Lock) -> dict[str, str]:
    """The digests of what a run made; none where it was not kept, or the run did not end as its lock has it."""
    folder = RunFolder(path if path.is_dir() else path.parent)
    record = folder.read() if (folder.path / RUN_FILE).is_file() else {}
    known = {name: value for name, value in record.get("recipe", {}).items() if name != "why"}
    same = all(lock.recipe.get(name) == value for name, value in known.items())
    weights: dict[str, str] = record.get("weights", {})
    return weights if same else {}


def parsed(assignments: Sequence[str]) -> dict[str, Any]:
    """Settings out of `name=value` words. Raises BadValue for an unknown name or a value of the wrong type."""
    pairs = [word.partition("=") for word in assignments]
    if missing := [name for name, sign, _ in pairs if not sign]:
        raise BadValue(f"{missing[0]!r} is not of the form name=value.")
    names = {name.replace("-", "_"): text for name, _, text in pairs}
    known(names, TrainConfig)
    kinds = {setting.name: setting for setting in settings(TrainConfig)}
    return {name: environment.parsed(kinds[name], text) for name, text in names.items()}
