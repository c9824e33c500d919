"""Many stages, one adapter: `backprop multi-run` and `Trainer.multi_run`."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bp_core.choices import STARTS_IN_BASE
from bp_core.config import TrainConfig
from bp_core.errors import (
    BadValue,
    DiskFull,
    GateFailed,
    Interrupted,
    MergeRefused,
    NothingToResume,
    OutputUnusable,
    ResumeMismatch,
)
from bp_core.events import Notify, Watch
from bp_core.folders import writable_folder, write_json
from bp_core.process_group import launch_env
from bp_core.rail import Job
from bp_core.settings import Trait, names, settings
from bp_data import ChatTokenizer
from bp_data.reading.columns import as_it_is
from bp_data.reading.files import Data, lasting
from bp_eval.measures import losses
from bp_multirun.config import MultiRunConfig
from bp_multirun.record import GENERAL, Record, Score, Scores, states
from bp_multirun.session import MERGED, Session, SessionCallbacks
from bp_plan.plan import Plan
from bp_runs import Claim, run_folder

from ..evaluation import rows as held_out
from ..evaluation.evaluate import opened
from ..hints import multi_run_command
from ..models import locate
from ..models.published import publish_merged
from ..models.targets import BASE, Artifact
from ..progress import Screen, shown, silent
from ..training.prepare import NO_MERGE_FIX
from . import DATA_FOLDER, MULTI_RUN, SETTINGS_FILE
from . import report as forgetting_report
from .stage_data import Source, StageData, anew, as_list, sources

if TYPE_CHECKING:
    from ..trainer import Trainer

_THEN = "; then: "
PROBE = Path(__file__).with_name("general_probe.jsonl")


@dataclass(frozen=True)
class MultiRun:
    """A session that is done. `adapter` is the result; `folder` has the stages, their rows and the report."""

    adapter: Path
    folder: Path
    report: Path
    config: MultiRunConfig
    record: Record
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        places = {name: str(getattr(self, name)) for name in ("adapter", "folder", "report")}
        return places | forgetting_report.numbers(self.record, self.config) | {"notes": list(self.notes)}

    def require(self) -> None:
        """Raises GateFailed where a stage was refused."""
        refused = [entry for entry in self.record.entries if not entry.accepted]
        if not refused:
            return
        told = "; ".join(f"{e.name} would raise the loss of earlier stages by {e.rise:.4f}" for e in refused)
        error = GateFailed(f"not merged: {told}.", where=str(self.folder), fix=_GATE_FIX)
        error.kept = str(self.adapter) if self.record.accepted else None
        raise error


@dataclass(frozen=True)
class SessionPlan:
    """What a session would do: its stages, what there is to say of them, and a plan for each data set."""

    sources: Sequence[Source]
    notes: Sequence[str]
    plans: Sequence[Plan]

    def as_dict(self) -> dict[str, Any]:
        stages = [{"name": source.stage.name, "rows": source.count} for source in self.sources]
        return {"stages": stages, "notes": list(self.notes), "plans": [plan.as_dict() for plan in self.plans]}


_GATE_FIX = "Use --replay 0.5, a lower --learning-rate or --schedule inverse; or allow more with --gate, and run again."


@dataclass(frozen=True)
class _Session:
    """What the parts of a session share."""

    config: TrainConfig
    multi: MultiRunConfig
    sources: Sequence[Source]
    plan: Plan
    make: type[Trainer]
    watch: Watch | None

    @property
    def folder(self) -> Path:
        return Path(self.config.output).resolve() / MULTI_RUN

    @property
    def data(self) -> StageData:
        return StageData(self.folder / DATA_FOLDER)

    def run(self, began: Callable[[], None]) -> Record:
        """Do what is not done yet. `began` is called once nothing is refused any more."""
        callbacks = SessionCallbacks(self.train, self.measure, self.done)
        session = Session(self.folder, self.multi, self.facts(), callbacks)
        stages = [source.stage for source in self.sources]
        session.require(stages)
        began()
        for number in range(len(session.record.entries) + 1, len(stages) + 1):
            self.data.keep(number, self.sources[number - 1], self.config.held_out, self.config)
        record = session.run(stages)
        forgetting_report.write(record, self.multi, self.folder)
        return record

    def facts(self) -> dict[str, Any]:
        """What must stay the same for adapters to be merged, and losses to be compared."""
        recipe = self.plan.recipe
        same = {name: getattr(recipe, name) for name in names(TrainConfig, Trait.MERGED)}
        free = names(MultiRunConfig, Trait.FREE)
        same |= {name: value for name, value in dataclasses.asdict(self.multi).items() if name not in free}
        return {"base": locate.fingerprint(self.plan.base)} | same

    def train(self, number: int, start: Path | None, folder: Path) -> Path:
        """A stage, or the rest of one that was begun."""
        config = self.stage_config(number, folder)
        begun = sorted((folder / "runs").glob("*/" + run_folder.RUN_FILE), reverse=True)
        trainer = self.make(**dataclasses.asdict(config))
        earlier = Record.read(done[0]).accepted if (done := states(self.folder)) else ()
        data = self.data.train(number, earlier, self.multi.replay, self.config.seed)
        try:
            resume = begun[0].parent.name if begun else False
            before = self.folder / f"stage-{earlier[-1]:04d}" / MERGED if earlier else None
            return trainer.train(data, resume=resume, start=start, merge_with=before, watch=self.watch).adapter
        except NothingToResume:  # it is finished, and with these settings
            return trainer.adapter
        except ResumeMismatch as error:
            raise ResumeMismatch(f"stage {number} was begun otherwise: {error.message}", fix=anew(folder)) from error
        finally:
            trainer.close()

    def stage_config(self, number: int, folder: Path) -> TrainConfig:
        recipe, config = self.plan.recipe, self.config
        looks = config.eval_every is not None or config.patience is not None
        return replace(
            config,
            output=str(folder),
            backend=recipe.backend,
            mode=recipe.mode,
            seed=(config.seed + number - 1) % 2**32,
            learning_rate=recipe.learning_rate * self.multi.rate_decay ** (number - 1),
            samples=None,
            held_out=None,
            eval_data=str(self.data.held_out(number)) if looks else None,
        )

    def measure(self, adapter: Path | None, sets: Sequence[str]) -> Scores:
        job = Job(self.plan.base, adapter=adapter, dtype=self.plan.recipe.dtype, mode=self.plan.recipe.mode)
        model = adapter.name if adapter else BASE
        tokenizer = ChatTokenizer.open(self.plan.base).with_tools(self.config.tools_template)
        scores = {}
        quiet = None if self.watch is None else silent
        with shown(quiet) as notify, opened(model, job, self.plan.recipe.backend, notify) as rail:
            for name in sets:
                reading = as_it_is(self.config) if name == GENERAL else self.config
                file = PROBE if name == GENERAL else self.data.held_out(int(name))
                config = replace(reading, held_out=None)
                rows = held_out.given(tokenizer, file, config, None, notify)
                stage = "no stage" if name == GENERAL else f"stage {name}"
                good = losses(rail, rows.examples, f"rows of {stage}, by {model}", notify)
                bad = losses(rail, rows.rejected, f"rejected answers of {stage}, by {model}", notify)
                scores[name] = _score(good, bad)
        return scores

    def done(self, number: int, merged: Path) -> None:
        """The result gets its place. Checkpoints of a stage that is merged are of no use any more."""
        publish_merged(merged, Path(self.config.output).resolve())
        for stage in self.folder.glob("stage-*"):
            if int(stage.name.removeprefix("stage-")) <= number:
                for checkpoints in stage.glob("runs/*/checkpoints"):
                    shutil.rmtree(checkpoints)


def multi_run(
    config: TrainConfig,
    multi: MultiRunConfig,
    dataset: Data | Sequence[Data],
    make: type[Trainer],
    watch: Watch | None = None,
) -> MultiRun:
    """Train a stage on each data set, or on parts of one, and merge them. What is done already is not done again.

    Raises BadValue for what cannot be merged, ResumeMismatch for other settings than those of the stages before, and
    what training raises.
    """
    config, data, found, notes = _stages_of(config, multi, dataset)
    reading = replace(config, samples=None) if multi.runs else config
    planned = plans(reading, data, make, None if watch is None else silent)
    _refuse_contracts(planned)
    plan = planned[0]
    output = writable_folder(Path(config.output).resolve())
    folder = writable_folder(output / MULTI_RUN)
    session = _Session(config, multi, found, plan, make, watch)

    def began() -> None:
        _remember(folder, replace(config, mode=plan.recipe.mode), multi, data)
        for note in notes if watch is None else ():
            with Screen() as screen:
                screen.console.print(f"Note: {note}", style="yellow", markup=False, soft_wrap=True)

    with Claim(folder), _resumable(folder):
        record = session.run(began)
    return MultiRun(output / "lora", folder, folder / "report.html", multi, record, tuple(notes))


def plan_session(
    config: TrainConfig,
    multi: MultiRunConfig,
    dataset: Data | Sequence[Data],
    make: type[Trainer],
    notify: Notify | None = None,
) -> SessionPlan:
    """What `multi_run` would do, and its refusals. Where one data set is cut, the plan is that of a part."""
    config, data, found, notes = _stages_of(config, multi, dataset)
    part = replace(config, samples=found[0].count) if multi.runs else config
    return SessionPlan(found, notes, plans(part, data, make, notify))


def _stages_of(
    config: TrainConfig, multi: MultiRunConfig, dataset: Data | Sequence[Data]
) -> tuple[TrainConfig, list[Data], list[Source], list[str]]:
    """The settings in the mode that holds here, the data sets, the stages, and what there is to say of them."""
    config = _in_the_mode_begun(config)
    _refuse(config)
    data = as_list(dataset)
    found, notes = sources(data, multi.runs, config)
    return config, data, found, notes


def resumed(
    name: str, values: Mapping[str, Any], data: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The settings and data of a session that was begun; whatever of it has a name stands for it.

    `values` and `data` were given besides: raises BadValue where they would change it. Raises NothingToResume.
    """
    if name == run_folder.NEWEST:
        name = str(values.get("output", TrainConfig.output))
    path = _settings_file(Artifact.find(name))
    if path is None:
        fix = "Begin one with --data, or name its folder with --output."
        raise NothingToResume("there is no session of many stages here.", where=name, fix=fix)
    begun = json.loads(path.read_text(encoding="utf-8"))
    if None in begun["data"]:
        message = "the session was given its rows in Python, which are not kept."
        raise NothingToResume(message, where=name, fix="Give them again: Trainer(…).multi_run([rows, …]).")
    begun["settings"]["output"] = str(path.parent.parent)
    _refuse_others(values, begun["settings"] | begun["multi_run"], data, begun["data"])
    return begun["settings"], begun["multi_run"], begun["data"]


def _settings_file(source: Artifact) -> Path | None:
    """Where a session wrote down how it was begun."""
    places = [source.place / MULTI_RUN, source.place] if source.place else []
    places += [source.session] if source.session else []
    places += list(source.run.path.parents)[:3] if source.run else []
    return next((place / SETTINGS_FILE for place in places if (place / SETTINGS_FILE).is_file()), None)


def _refuse_others(
    values: Mapping[str, Any], known: Mapping[str, Any], data: Sequence[str], begun_data: Sequence[str]
) -> None:
    """With --resume everything is as it was begun: an option besides would be one without effect."""
    defaults = {s.name: s.default for kind in (TrainConfig, MultiRunConfig) for s in settings(kind)}
    given = [name for name, value in values.items() if name != "output" and value not in (defaults[name], known[name])]
    if data and [lasting(part) for part in data] != begun_data:
        given.append("data")
    if given:
        fix = "Leave it out; or give the whole command again, without --resume, to change something or add data."
        raise BadValue(f"with resume all is as it was begun, but also set: {', '.join(given)}.", fix=fix)


def _refuse(config: TrainConfig) -> None:
    """What cannot be merged, or has no meaning for many stages; all of it in one message. Raises BadValue."""
    reasons = [
        (config.mode == "full", "mode full", "it trains no adapter to merge"),
        (config.dora, "dora", "its lengths are no product of two factors"),
        (config.init in STARTS_IN_BASE, f"init {config.init}", "stages would not start from one base"),
        (bool(config.shard), "shard", "a session is one process"),
        (config.full_ft_offload, "full_ft_offload", "it is for mode full"),
        (config.eval_data is not None, "eval_data", "each stage is evaluated on rows held out of it: set held_out"),
        (launch_env().size > 1, "a launcher", "a session is one process"),
    ]
    problems = [f"{name} does not go with multi-run: {reason}" for found, name, reason in reasons if found]
    if problems:
        raise BadValue("; ".join(problems) + ".", fix="Leave that out, or train each stage by itself.")


def _refuse_contracts(planned: Sequence[Plan]) -> None:
    """Raises MergeRefused for stages whose text becomes tokens in ways that one model cannot have."""
    first = planned[0].contract
    for number, plan in enumerate(planned[1:], 2):
        wrong = first.conflicts(plan.contract) if first and plan.contract else []
        if wrong:
            raise MergeRefused(f"stages 1 and {number}: {'; '.join(wrong)}.", fix=NO_MERGE_FIX)


def plans(config: TrainConfig, data: Sequence[Data], make: type[Trainer], notify: Notify | None = None) -> list[Plan]:
    """What each stage would do. All data is read as training will read it, so a fault is told by its own place."""
    trainer = make(**dataclasses.asdict(replace(config, held_out=None, eval_every=None, patience=None)))
    return [trainer.plan(part, notify=notify) for part in data]


def _in_the_mode_begun(config: TrainConfig) -> TrainConfig:
    """With mode auto a session that is there goes on in its mode, whatever fits today: other adapters do not merge."""
    file = Path(config.output).resolve() / MULTI_RUN / SETTINGS_FILE
    if config.mode != "auto" or not file.is_file():
        return config
    return replace(config, mode=json.loads(file.read_text(encoding="utf-8"))["settings"]["mode"])


def _remember(folder: Path, config: TrainConfig, multi: MultiRunConfig, data: Sequence[Data]) -> None:
    model = Path(config.model)
    settings = dataclasses.asdict(config) | {"output": str(folder.parent)}
    settings |= {"model": str(model.resolve())} if model.is_dir() else {}
    value = {"settings": settings, "multi_run": dataclasses.asdict(multi), "data": [lasting(part) for part in data]}
    write_json(folder / SETTINGS_FILE, value)


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Say how to go on after Ctrl-C."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        message = error.message if isinstance(error, Interrupted) else "stopped between two stages."
        raise Interrupted(message, fix=f"Go on with: {multi_run_command(folder.parent)}") from None
    except (DiskFull, OutputUnusable) as error:  # a stage says how to go on with itself, not with the session
        error.fix = f"{error.fix.partition(_THEN)[0]}{_THEN}{multi_run_command(folder.parent)}"
        raise


def _score(good: Sequence[Any], bad: Sequence[Any]) -> Score:
    nats = [sums.loss for sums in good]
    over = [float(sums.over) for sums in good]
    pairs = zip(good, bad, strict=True) if bad else ()
    return Score(nats, over, [float(chosen.loss / chosen.over < other.loss / other.over) for chosen, other in pairs])


def settings_of(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a session from those given together: of each stage's training, and of the merging."""
    own = names(MultiRunConfig)
    mine = {name: value for name, value in values.items() if name in own}
    return {name: value for name, value in values.items() if name not in own}, mine
