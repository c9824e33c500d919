"""What a user means by the name of a model: a run, a folder with what was trained, or a model as it came."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bp_core.choices import QUANTIZED, DType
from bp_core.config import TrainConfig
from bp_core.errors import AdapterUnusable, ModelNotFound, RunNotFound, TargetNotFound
from bp_core.events import Notify
from bp_core.rail import Job
from bp_core.settings import settings
from bp_plan.presets import PRESETS
from bp_runs import history
from bp_runs.run_folder import RunFolder

from . import locate
from .published import adapter_in, base_of, is_whole, job_for, mode_of, run_of

BASE = "base"  # in place of a name: what the other one was trained from


@dataclass(frozen=True)
class Target:
    """A model to open for reading, as the user named it.

    `folder` is where what was trained lies, None for a model as it came; `run` made it, if that is known.
    """

    name: str
    job: Job
    folder: Path | None = None
    run: RunFolder | None = None

    @property
    def settings(self) -> TrainConfig:
        """The settings of the run, of whatever version that wrote them; the defaults where there is none."""
        said = self.run.read().get("settings", {}) if self.run else {}
        return TrainConfig(**{s.name: said[s.name] for s in settings(TrainConfig) if s.name in said})


def target(name: str, dtype: DType, notify: Notify) -> Target:
    """The model that is meant. A folder wins over a run or a model of that name.

    Raises TargetNotFound, and for what is there but cannot be used AdapterUnusable, ModelNotFound, HubUnreachable.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _in_folder(name, folder, dtype, notify)
    if name in PRESETS or ("/" in name and not folder.exists()):
        return Target(name, Job(locate.locate(name, notify), dtype=dtype))
    if folder.exists():
        fix = "Name the folder of an adapter or a model; `backprop compare --file` asks a .gguf."
        raise TargetNotFound("this is a file, not a folder.", where=name, fix=fix)
    try:
        entry = history.find(name)
    except RunNotFound as error:
        raise TargetNotFound(f"there is no folder and no preset {name!r}, and {error.message}") from error
    return replace(_in_folder(name, Path(entry.folder), dtype, notify), name=entry.id)


def base(of: Target, dtype: DType, notify: Notify) -> Target:
    """What a model was trained from; a model as it came is its own. An adapter's base is kept in the same bits."""
    if of.folder is None:
        return replace(of, name=BASE)
    if of.job.adapter:
        return Target(BASE, replace(of.job, adapter=None))
    name = base_of(of.folder)
    if name is None:
        raise ModelNotFound("it is not known what this model was trained from.", where=str(of.folder))
    return Target(BASE, Job(locate.locate(name, notify), dtype=dtype))


def _in_folder(name: str, place: Path, dtype: DType, notify: Notify) -> Target:
    folder = adapter_in(place)
    if not is_whole(folder):
        job = job_for(folder, notify, dtype)
        mode = mode_of(folder)
        return Target(name, replace(job, mode=mode if mode in QUANTIZED else TrainConfig.mode), folder, run_of(folder))
    trained = base_of(folder) is not None
    return Target(name, Job(folder, dtype=dtype), folder if trained else None, run_of(folder) if trained else None)


def trained(place: Path, model: str, dtype: DType, notify: Notify) -> Target:
    """What lies at `place`, or the model as it came where nothing was trained yet."""
    try:
        return _in_folder(str(place), adapter_in(place), dtype, notify)
    except AdapterUnusable:
        return Target(model, Job(locate.locate(model, notify), dtype=dtype))
