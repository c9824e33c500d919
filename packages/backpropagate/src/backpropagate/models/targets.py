"""What a user means by a name: a run, a folder with what was trained, a .gguf file, or a model as it came."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bp_core.choices import PLAIN_MODE, DType, Mode
from bp_core.config import TrainConfig
from bp_core.contract import Contract
from bp_core.errors import (
    AdapterUnusable,
    BadValue,
    FileMissing,
    HubUnreachable,
    LedgerUnusable,
    ModelGated,
    ModelNotFound,
    RunNotFound,
    TargetNotFound,
)
from bp_core.events import Notify
from bp_core.rail import Job
from bp_core.settings import settings
from bp_data import ChatTokenizer
from bp_export.gguf.metadata import is_adapter_file
from bp_export.ollama.local_models import PREFIX, model_file
from bp_export.trained_tokenizer import tokenizer_folder, trained_tokenizer
from bp_export.weights.adapter_file import AdapterFile, base_name, checkpoint_fix
from bp_export.weights.merged_weights import require_whole_adapter
from bp_export.weights.mlx import comes_from, is_quantized
from bp_export.weights.peft_layout import in_peft_layout
from bp_plan.presets import PRESETS
from bp_runs import Entry, history
from bp_runs.run_folder import RUN_FILE, RunFolder

from ..hints import command
from ..multi_run import MULTI_RUN
from . import locate
from .gguf_files import by_age, is_gguf
from .published import FINGERPRINT, KINDS, origin_of

BASE = "base"  # in place of a name: what the other one was trained from
_ADAPTER_CONFIG = "adapter_config.json"
_QUANTIZED_NAME = re.compile(r"(-unsloth)?-bnb-4bit$")
_OTHER_BASE = "Bring back the weights it was trained on: those here have changed, or are of another revision or size."


@dataclass(frozen=True)
class Artifact:
    """What training leaves, as the user named it. Each of its small files is read once, when it is first needed.

    `place` is the file or folder of that name, or the folder of the run; None for a preset or a model of the hub.
    `folder` holds an adapter or a whole model; None where there is only a file, or a run that has published nothing.
    """

    name: str
    place: Path | None = None
    folder: Path | None = None
    named_run: RunFolder | None = None

    @classmethod
    def find(cls, name: str | Path, output: Path | None = None) -> Artifact:
        """What `name` stands for: a path, a preset, a run's id or the beginning of it, or a model of the hub.

        The first of these that exists is taken. `output` is a folder whose runs come before all others. Nothing is
        downloaded. Raises TargetNotFound, also where several runs begin so.
        """
        name, path = str(name), Path(name).expanduser()
        if name.startswith(PREFIX):
            return cls._at(name, model_file(name.removeprefix(PREFIX)))
        if name and path.exists():
            return cls._at(name, path)
        if name in PRESETS:
            return cls(name)
        runs = history.folders_of(name, output) if name else []
        if len(runs) == 1:
            return cls._at(runs[0].id, runs[0].path, runs[0])
        if runs:
            ids = ", ".join(run.id for run in runs)
            raise TargetNotFound(f"{len(runs)} runs begin with {name!r}: {ids}.", fix="Give more of the id.")
        if locate.hub_id(name):
            return cls(name)
        raise _nothing(name, PRESETS)

    @classmethod
    def _at(cls, name: str, place: Path, run: RunFolder | None = None) -> Artifact:
        if place.is_file():
            return cls(name, place)
        place = place.resolve()
        if _has_weights(place):
            return cls(name, place, place)
        if (place / RUN_FILE).is_file():
            run = RunFolder(place)
        # A run keeps what it published in its own folder, once a later run took its place.
        places = [place, place.parent.parent] if run else [place]
        folders = [folder / kind for folder in places for kind in KINDS]
        found = [cls(name, place, folder, run) for folder in folders if _has_weights(folder)]
        if run:
            found = [one for one in found if one.origin.get("run") == run.id]
        elif not found:
            runs = sorted(place.glob(f"runs/*/{RUN_FILE}"))
            run = RunFolder(runs[-1].parent) if runs else None
        return max(found, key=lambda one: str(one.origin.get("run", "")), default=cls(name, place, None, run))

    @property
    def file(self) -> Path | None:
        """The file that was named."""
        return self.place if self.place and self.place.is_file() else None

    @cached_property
    def origin(self) -> Mapping[str, Any]:
        """Which run made the folder, from what, and at which step; empty for a folder from elsewhere."""
        return origin_of(self.folder) if self.folder else {}

    @cached_property
    def adapter_config(self) -> Mapping[str, Any]:
        """PEFT's settings of the adapter; empty where there is none. Raises AdapterUnusable."""
        path = self.folder / _ADAPTER_CONFIG if self.folder else None
        if path is None or not path.is_file():
            return {}
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AdapterUnusable("this is not valid JSON.", where=str(path)) from error
        return config if isinstance(config, dict) else {}

    @cached_property
    def contract(self) -> Contract | None:
        """Raises AdapterUnusable."""
        return Contract.read(self.folder) if self.folder else None

    @cached_property
    def run(self) -> RunFolder | None:
        """The run that made it; None if it is from elsewhere, or the run is gone."""
        return self.named_run or self._maker() or self._exporter()

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The record of the run; empty where no run is known. Raises CheckpointUnusable."""
        return self.run.read() if self.run else {}

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe of the run; empty where there is none."""
        return dict(self.record.get("recipe", {}))

    @property
    def settings(self) -> TrainConfig:
        """The settings of the run, of whatever version that wrote them; the defaults where there is none."""
        given = self.record.get("settings", {})
        return TrainConfig(**{s.name: given[s.name] for s in settings(TrainConfig) if s.name in given})

    @property
    def is_whole(self) -> bool:
        """Whether the folder holds a whole model, not an adapter."""
        return self.folder is not None and not (self.folder / _ADAPTER_CONFIG).is_file()

    @property
    def is_trained(self) -> bool:
        """Whether it is an adapter, or a whole model that one of our runs trained."""
        return self.folder is not None and (not self.is_whole or self.base is not None)

    @property
    def base(self) -> str | None:
        """What its base is called; None for a whole model from elsewhere. Raises AdapterUnusable."""
        name = base_name(self.adapter_config) or self.origin.get("base")
        return str(name) if name else None

    @property
    def mode(self) -> Mode:
        """How it was trained; the default for one from elsewhere."""
        mode: Mode = self.origin.get("mode", PLAIN_MODE)
        return mode

    @property
    def session(self) -> Path | None:
        """The folder of the multi-run session that merged this adapter; None for any other."""
        folder = self.folder.parent / MULTI_RUN if self.folder else None
        return folder if folder and MULTI_RUN in self.origin and folder.is_dir() else None

    @cached_property
    def exports(self) -> Mapping[Path, str]:
        """The .gguf files made of it that are still there, the newest last, with their formats.

        They are those that the run knows, also if the output folder was moved since, or without a run those beside it.
        """
        if self.run is None:
            files = by_age(self.folder.parent) if self.folder else []
            return {path: "gguf-lora" if is_adapter_file(path) else "gguf" for path in files}
        output = (self.folder or self.run.path.parent).parent
        made = {Path(export["path"]): str(export["format"]) for export in history.exports_of(self.run)}
        here = {path if path.is_file() else output / path.name: format for path, format in made.items()}
        return {path: format for path, format in here.items() if is_gguf(path) and path.is_file()}

    def require_folder(self) -> Path:
        """The folder of what was trained. Raises AdapterUnusable, and TargetNotFound for a mere name."""
        if self.folder:
            return self.folder
        if self.file:
            raise AdapterUnusable("this is a file, not a folder.", where=self.name)
        self._require_place()
        if self.named_run is None:
            fix = checkpoint_fix(self.place) if self.place else None
            raise AdapterUnusable(f"there is no adapter here ({_ADAPTER_CONFIG} is missing).", where=self.name, fix=fix)
        fix = f"Go on with it: {command('resume', self.named_run.id)}"
        raise AdapterUnusable(f"there is no adapter of run {self.named_run.id} yet.", where=self.name, fix=fix)

    def require_run(self) -> RunFolder:
        """The run that made it. Raises RunNotFound, and TargetNotFound for a mere name."""
        if self.run:
            return self.run
        self._require_place()
        raise RunNotFound("no run that made this is known.", where=self.name)

    @property
    def gguf(self) -> Path | None:
        """The file to run in its place: itself, or a run's newest export unless the run has trained on since."""
        return self._newest_export() if self.named_run else self.file

    def require_gguf(self) -> Path:
        """The file to serve: itself, the newest in the folder, or the newest export. Raises FileMissing."""
        place = self._require_place()
        files = by_age(place) if place.is_dir() else []
        inside = [path for path in files if not is_adapter_file(path)]
        found = self.file or (inside[-1] if inside else self._newest_export())
        if found:
            return found
        fix = f"Make one: {command('export', self.folder or place)}{' --overwrite' if self.exports else ''}"
        raise FileMissing("no .gguf file was made of it, or it was trained on since.", where=self.name, fix=fix)

    def _require_place(self) -> Path:
        """Raises TargetNotFound for a mere name."""
        if self.place is None:
            raise _nothing(self.name)
        return self.place

    def _newest_export(self) -> Path | None:
        """The newest whole .gguf that is not older than the weights it was made of."""
        weights = self.folder.glob("*.safetensors") if self.folder else ()
        newest = max((file.stat().st_mtime for file in weights), default=0.0)
        whole = [path for path, format in self.exports.items() if format != "gguf-lora"]
        fresh = [path for path in whole if path.stat().st_mtime >= newest]
        return fresh[-1] if fresh else None

    def job(self, notify: Notify, dtype: DType = "auto", base: str | None = None) -> Job:
        """What opens it: a whole model by itself, an adapter on its base, or on `base` in its place.

        Raises AdapterUnusable, also for another base than it was trained on, ModelNotFound, HubUnreachable, and
        BadValue for `base` where there is no adapter.
        """
        if base and (self.place is None or self.file or self.is_whole):
            raise BadValue(f"base is set, but {self.name} is no adapter, so it needs no base.", fix="Leave --base out.")
        if self.place is None:
            return Job(locate.locate(self.name, notify), dtype=dtype)
        folder = self.require_folder()
        if self.is_whole:
            return Job(folder, dtype=dtype)
        model = self._base_folder(folder, base, notify)
        name = base or self.base
        expected = self.origin.get(FINGERPRINT)
        known = expected is None or expected == locate.fingerprint(model)
        if not known and not (base and self._is_source(model, notify)):
            raise AdapterUnusable(f"{name} is not the model it was trained on.", where=str(folder), fix=_OTHER_BASE)
        adapter = AdapterFile.open(folder, self.adapter_config)
        require_whole_adapter(adapter, model)
        return Job(model, adapter=in_peft_layout(adapter), dtype=dtype)

    def _base_folder(self, folder: Path, base: str | None, notify: Notify) -> Path:
        """Where the base lies: `base`, or the one that the adapter names."""
        where = str(folder / _ADAPTER_CONFIG)
        if base:
            return locate.locate(base, notify)
        if self.base is None:
            fix = _name_base(folder, "MODEL")
            raise AdapterUnusable("it does not say which base model it belongs to.", where=where, fix=fix)
        try:
            return locate.locate(self.base, notify)
        except (ModelNotFound, HubUnreachable) as error:
            error.where = error.where or where
            error.fix = f"{error.fix} {_name_base(folder, _full(self.base))}"
            raise

    def tokenizer(self, base: Path) -> ChatTokenizer:
        """The tokenizer of what was trained on `base`, with the chat template of its contract."""
        tokenizer = ChatTokenizer.open(tokenizer_folder(self._adapter, base))
        template = self.contract.template if self.contract else ""
        return tokenizer.with_template(template) if template and not tokenizer.has(template) else tokenizer

    def contract_on(self, base: Path) -> Contract | None:
        """The contract of what was trained on `base`, or that which its tokenizer implies."""
        return trained_tokenizer(self._adapter, base).contract

    @property
    def _adapter(self) -> Path | None:
        return self.folder if self.folder and not self.is_whole else None

    def reading_job(self, dtype: DType, notify: Notify, base: str | None = None) -> Job:
        """What opens it for reading, in the mode it was trained in. Raises TargetNotFound for a file, and as `job`."""
        if self.file:
            fix = "Name the folder of an adapter or a model; `backprop compare --file` asks a .gguf."
            raise TargetNotFound("this is a file, not a folder.", where=self.name, fix=fix)
        return replace(self.job(notify, dtype, base), mode=self.mode)

    def base_job(self, job: Job, notify: Notify) -> Job:
        """What opens the model that `job`'s was trained from; a model as it came is its own base."""
        if job.adapter or not self.is_trained:
            return replace(job, adapter=None)  # an adapter's base is kept in the same bits
        return Job(locate.locate(str(self.base), notify), dtype=job.dtype)

    def base_is_here(self, notify: Notify) -> bool:
        """Whether the base that one of our runs trained on can be found. That of another program is not looked for."""
        return FINGERPRINT in self.origin and _located(self.base, notify) is not None

    def before_training(self, notify: Notify) -> Path | None:
        """Where the model is that a whole one was before, if it still is; None for an adapter."""
        return _located(self.base, notify) if self.is_whole else None

    def _is_source(self, model: Path, notify: Notify) -> bool:
        """Whether `model` has the 16-bit weights of the MLX-quantised base that the adapter was trained on."""
        trained = _located(self.base, notify)
        return trained is not None and is_quantized(locate.description(trained)) and comes_from(trained, model)

    def _maker(self) -> RunFolder | None:
        run = self.origin.get("run")
        if run is None or self.folder is None:
            return None
        output = self.folder.parent
        places = [output / "runs" / run, *sorted(output.glob(f"{MULTI_RUN}/stage-*/runs/{run}")), output]
        return next((RunFolder(place) for place in places if place.name == run and (place / RUN_FILE).is_file()), None)

    def _exporter(self) -> RunFolder | None:
        """The run that a file, or the folder of a merged model, was exported of."""
        path = self.folder or self.file
        if path is None:
            return None
        path = path.resolve()
        runs = [RunFolder(file.parent) for file in sorted(path.parent.glob(f"runs/*/{RUN_FILE}"), reverse=True)]
        with suppress(LedgerUnusable):
            runs += [RunFolder(Path(entry.folder)) for entry in history.ledger().entries()]
        for run in runs:
            if str(path) in (made["path"] for made in history.exports_of(run)):
                return run
        return None


def _name_base(folder: Path, base: str) -> str:
    """How to say which base an adapter belongs to."""
    example = f"{command('export', folder)} --base {base}"
    return f"Name the base with --base, which chat, eval, compare and export take; for example: {example}"


def _full(base: str) -> str:
    """What the 16-bit source of a quantised base may be called."""
    return _QUANTIZED_NAME.sub("", base) if _QUANTIZED_NAME.search(base) else "MODEL"


def entry_of(name: str) -> Entry:
    """What the ledger knows of the run that a name stands for. Raises TargetNotFound, RunNotFound."""
    return history.entry(Artifact.find(name).require_run())


def _located(base: str | None, notify: Notify) -> Path | None:
    """Where a base is, if it still is."""
    try:
        return locate.locate(base, notify) if base else None
    except (ModelNotFound, ModelGated, HubUnreachable, FileMissing):
        return None


def _has_weights(folder: Path) -> bool:
    return (folder / _ADAPTER_CONFIG).is_file() or (folder / "config.json").is_file()


def _nothing(name: str, models: Iterable[str] = ()) -> TargetNotFound:
    """`models` are names that were possible besides those of files, folders and runs."""
    beside = map(str, Path(name).expanduser().parent.glob("*"))
    beginnings = (run.id[: len(name)] for run in history.folders_of(""))
    near = difflib.get_close_matches(name, [*models, *beside, *beginnings], 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    if models:
        return TargetNotFound(f"there is no file, folder, run or model {name!r}{hint}")
    fix = "Name a run (`backprop list-runs`), or a folder such as ./output. A model's name is not enough here."
    return TargetNotFound(f"there is no file, folder or run {name!r}{hint}", fix=fix)
