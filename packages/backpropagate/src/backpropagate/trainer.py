"""The Python door: plan, train, export, generate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.config import ExportConfig, ExportFormat, Quantization, Recipe, TrainConfig, known
from bp_core.contract import CONTRACT_FILE, Contract
from bp_core.events import Event, Finished, Notify, Progress, Stepped, Watch
from bp_core.folders import home, writable_folder
from bp_core.rail import Job, Opened, Rail
from bp_data import Batches, ChatTokenizer, Prepared, prepare
from bp_data.files import Data, columns_in, require
from bp_export import Export
from bp_resilience import Keeper
from bp_resilience import train as run_loop

from . import models, runs
from .adapters import adapter_in, export_adapter, publish, stop_ids
from .recipe import choose_rail, resolve
from .screen import Screen


@dataclass(frozen=True)
class Plan:
    """What a training run would do; nothing is loaded yet. `data` counts rows, tokens and what was cut."""

    recipe: Recipe
    device: str
    base: Path
    data: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "base": str(self.base)}


@dataclass(frozen=True)
class Run:
    """A finished training run. `losses` are per target token, one a step; memory in bytes."""

    id: str
    folder: Path
    adapter: Path
    recipe: Recipe
    losses: tuple[float, ...]
    tokens: int
    targets: int
    seconds: float
    peak_memory: int

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "folder": str(self.folder), "adapter": str(self.adapter)}


class Trainer:
    """Fine-tunes one base model. `settings` are the fields of TrainConfig; an unknown one raises BadValue."""

    def __init__(self, model: str = models.DEFAULT, **settings: Any) -> None:
        known(settings, TrainConfig)
        self.config = TrainConfig(model=str(model), **settings)
        self._rail: Rail | None = None
        self._tokenizer: ChatTokenizer | None = None

    @property
    def adapter(self) -> Path:
        """Where the adapter lies once trained."""
        return Path(self.config.output).resolve() / "lora"

    def plan(self, data: Data, **settings: Any) -> Plan:
        """Resolve the recipe for `data` and say what training would do, without loading the model's weights."""
        with Screen() as screen:
            return self._prepare(data, self._with(settings), screen.notify)[0]

    def train(
        self,
        data: Data,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        samples: int | None = None,
        resume: bool = False,
        watch: Watch | None = None,
    ) -> Run:
        """Train an adapter on `data`: a file or folder, a data set of the hub by name, or rows.

        With `resume`, go on with the newest unfinished run.

        `watch` receives every event, in place of the progress display.
        """
        config = self._with({"steps": steps, "epochs": epochs, "samples": samples})
        screen: AbstractContextManager[Screen | None] = nullcontext() if watch else Screen()
        with screen as shown:
            notify = shown.notify if shown else _silent
            output = writable_folder(Path(config.output).resolve())
            plan, prepared, rail = self._prepare(data, config, notify)
            facts = _facts(plan, prepared)
            run = runs.continued(output, plan.recipe, facts) if resume else runs.create(output, plan.recipe, facts)
            return self._train(run, plan, prepared, rail, watch or (shown.watch if shown else _silent))

    def export(
        self,
        format: ExportFormat = "gguf",
        quantization: Quantization = "q4_k_m",
        output: str | None = None,
        notify: Notify | None = None,
    ) -> Export:
        """Turn the trained adapter into a file to run, and prove that it behaves like what was trained.

        `notify` receives the progress, in place of the display. Raises NotProven when the file differs.
        """
        config = ExportConfig(format, quantization, output)
        self.close()
        if notify:
            return export_adapter(adapter_in(self.config.output), config, notify)
        with Screen() as screen:
            return export_adapter(adapter_in(self.config.output), config, screen.notify)

    def generate(self, prompt: str, *, limit: int = 256, adapter: bool = True) -> str:
        """The model's greedy answer to one user message, at most `limit` tokens; with or without the adapter."""
        rail, tokenizer = self._reader()
        trained = adapter and (self.adapter / CONTRACT_FILE).is_file()
        stop = stop_ids(tokenizer, Contract.read(self.adapter) if trained else None)
        made = rail.generate(
            tokenizer.prompt([{"role": "user", "content": prompt}]), limit=limit, stop=stop, adapter=adapter
        )
        return tokenizer.decode([token for token in made if token not in stop]).strip()

    def close(self) -> None:
        """Let go of the model and its memory. The next call that needs it opens it again."""
        if self._rail:
            self._rail.close()
        self._rail = None

    def _with(self, settings: Mapping[str, Any]) -> TrainConfig:
        known(settings, TrainConfig)
        return dataclasses.replace(self.config, **{name: v for name, v in settings.items() if v is not None})

    def _prepare(self, data: Data, config: TrainConfig, notify: Notify) -> tuple[Plan, Prepared, Rail]:
        require(data)
        backend, rail, probe = choose_rail(config.backend)
        base = models.locate(config.model, notify)
        self._tokenizer = ChatTokenizer.open(base)
        prepared = prepare(
            data,
            self._tokenizer,
            max_length=config.max_length,
            samples=config.samples,
            packing=config.packing,
            cache=home() / "cache" / "data",
            columns=columns_in(config.columns),
            train_on=config.train_on,
            on_progress=notify,
        )
        recipe = resolve(config, len(prepared.packed or prepared.examples), backend, models.description(base))
        return Plan(recipe, probe.device, base, prepared.report.as_dict()), prepared, rail

    def _train(self, run: runs.RunFolder, plan: Plan, prepared: Prepared, rail: Rail, watch: Watch) -> Run:
        recipe, losses, done = plan.recipe, [], []

        def record(event: Event) -> None:
            run.log(event)
            losses.extend([event.loss] if isinstance(event, Stepped) else [])
            done.extend([event] if isinstance(event, Finished) else [])
            watch(event)

        self.close()
        run.write_samples(prepared.samples)
        run.write(status="running", opened=dataclasses.asdict(self._open(rail, plan)))
        keeper = Keeper(run.checkpoints, recipe.checkpoint_every, recipe.keep_checkpoints)
        run_loop(rail, Batches(prepared.examples, recipe.seed, prepared.packed), recipe, keeper, record)
        self._rail = rail
        adapter = publish(rail, run, plan.base, prepared.contract)
        end = done[0]
        result = Run(
            run.id, run.path, adapter, recipe, tuple(losses), end.tokens, end.targets, end.seconds, end.peak_memory
        )
        run.write(status="finished", loss=end.loss, seconds=end.seconds, peak_memory=end.peak_memory)
        return result

    def _open(self, rail: Rail, plan: Plan) -> Opened:
        name = models.lasting_name(plan.base)
        return rail.open(Job(plan.base, recipe=plan.recipe, dtype=plan.recipe.dtype, base_name=name))

    def _reader(self) -> tuple[Rail, ChatTokenizer]:
        """The open rail, or the base with this trainer's adapter (if it was trained) opened for reading."""
        if self._rail is None or self._tokenizer is None:
            _, rail, _ = choose_rail(self.config.backend)
            base = models.locate(self.config.model, _silent)
            trained = (self.adapter / "adapter_config.json").is_file()
            rail.open(Job(base, adapter=self.adapter if trained else None, dtype=self.config.dtype))
            self._rail, self._tokenizer = rail, ChatTokenizer.open(base)
        return self._rail, self._tokenizer


def _facts(plan: Plan, prepared: Prepared) -> dict[str, Any]:
    """What must be the same for a run to be continued, besides its recipe."""
    return {"data": prepared.report.sha256, "template": prepared.contract.template_sha256, "base": str(plan.base)}


def _silent(event: Event | Progress) -> None:
    return None
