"""The Python door: plan, train, export, generate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from bp_core.backends import choose_rail
from bp_core.config import TrainConfig
from bp_core.contract import Contract
from bp_core.environment import configured, from_environment
from bp_core.errors import BadValue, NothingToResume
from bp_core.events import Notify, Watch
from bp_core.process_group import all_agree, launch_env, no_op
from bp_core.rail import Rail
from bp_core.settings import known
from bp_data import ChatTokenizer
from bp_data.reading.files import Data
from bp_eval.config import CompareConfig, EvalConfig
from bp_eval.measures import Evaluation
from bp_export import Export
from bp_export.config import ExportConfig, ExportFormat, PushConfig, Quantization
from bp_export.hub import PushResult
from bp_multirun.config import MultiRunConfig
from bp_plan.plan import Plan
from bp_resilience import Signals
from bp_runs.lock_file import Lock
from bp_runs.run_folder import RunFolder

from .evaluation.comparison import Comparison, compare
from .evaluation.evaluate import evaluate
from .export.export import export
from .hub.push import gather
from .models.published import place
from .models.targets import Artifact
from .multi_run.session import MultiRun, multi_run
from .privacy import disable_telemetry
from .progress import Screen, shown, silent
from .training.distributed import announcement, follow_recipe, join_processes, leave_on_error
from .training.prepare import TrainingSetup, begin, choose, prepared_job, run_settings, to_resume, write_down
from .training.run import Run, TrainingJob, TrainingRequest, carry_along, carry_out

Result = TypeVar("Result")


class Trainer:
    """Fine-tunes one base model. `settings` are the fields of TrainConfig; an unknown one raises BadValue.

    What is not given comes from the environment (BACKPROPAGATE_TRAIN_…), as for `backprop train`, or is computed.
    """

    def __init__(self, model: str | Path | None = None, **settings: Any) -> None:
        disable_telemetry()
        known(settings, TrainConfig)
        given = settings if model is None else settings | {"model": model}
        self._given = from_environment("train", TrainConfig) | given
        self.config = TrainConfig(**self._given)
        self._rail: Rail | None = None
        self._tokenizer: ChatTokenizer | None = None
        self._untrained = False

    @property
    def adapter(self) -> Path:
        """Where the adapter lies once trained, or after a full fine-tune the model."""
        return place(Path(self.config.output).resolve(), self.config.mode)

    @property
    def _subject(self) -> str | Path:
        """What was trained, or the model as it came where nothing was trained yet."""
        return self.adapter if self.adapter.is_dir() else self.config.model

    def plan(self, data: Data, *, notify: Notify | None = None, **settings: Any) -> Plan:
        """Resolve the recipe for `data` and say what training would do. The model's weights are neither fetched nor
        loaded. `notify` receives the progress, in place of the display."""
        request = TrainingRequest(data, self._with(settings))
        with shown(notify) as show:
            return prepared_job(choose(request), show, weights=False).plan

    def train(
        self,
        data: Data,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        samples: int | None = None,
        resume: bool | str = False,
        allow_changes: bool = False,
        watch: Watch | None = None,
        check: Callable[[Lock], None] | None = None,
        start: str | Path | None = None,
        merge_with: str | Path | None = None,
    ) -> Run:
        """Train an adapter on `data`: a file or folder, a data set of the hub, or rows. `watch` receives every event,
        in place of the display.

        `resume` goes on with the newest unfinished run, or the one whose id begins so; more steps than before extend
        it. Settings that are not given are then the run's; other ones, and other data or another model, are refused by
        name, unless `allow_changes`. `check` sees what would be
        trained before anything is written, and may refuse by raising. `start` is an adapter of the same settings to go
        on from, in place of a fresh one; `merge_with` one that the result will be merged with, of whose chat template
        all is kept. Under a launcher every process calls this; rank 0 alone shows and writes
        anything.
        """
        given = {"steps": steps, "epochs": epochs, "samples": samples}
        config = self._resumed(resume, given) if resume else self._with(given)
        request = TrainingRequest(data, config, resume, allow_changes, check, start, merge_with)
        quiet = watch is not None or launch_env().rank > 0
        with Signals(at_once=True) as signals, ExitStack() as claims:
            screen = None if quiet else claims.enter_context(Screen())
            notify = screen.notify if screen else silent

            def watching(run: str) -> Watch:
                return watch or (screen.showing(run) if screen else silent)

            setup = choose(request)
            team, probe = join_processes(setup.rail, setup.probe)
            setup = dataclasses.replace(setup, probe=probe)
            claims.enter_context(leave_on_error(team))

            if team.rank:
                return self._follow(setup, signals)
            work, begun, notes = all_agree(team, lambda: begin(setup, notify, claims))
            team.gather(announcement(work))
            all_agree(team, no_op)  # the others have prepared the same
            recording = write_down(work, begun, watching, claims)
            team.gather(str(recording.run.path))
            self.close()
            return self._keep(work, carry_out(work, recording, notes, signals))

    def multi_run(
        self,
        dataset: Data | Sequence[Data],
        *,
        num_runs: int | None = None,
        steps_per_run: int | None = None,
        samples_per_run: int | None = None,
        watch: Watch | None = None,
        **settings: Any,
    ) -> MultiRun:
        """Train a stage on each data set of a list, or on `num_runs` parts of one, and merge the adapters into one.

        `settings` are the other fields of MultiRunConfig, such as `merge="slao"` or `replay=0.2`. Called again with
        more data sets it goes on from there. A stage that `gate` refused is in the result's record; nothing is raised.
        """
        if "runs" in settings:
            raise BadValue("runs is called num_runs here.")
        given = settings if num_runs is None else settings | {"runs": num_runs}
        merging = configured("multi-run", MultiRunConfig, given)
        config = self._with({"steps": steps_per_run, "samples": samples_per_run})
        self.close()
        return multi_run(config, merging, dataset, Trainer, watch)

    def export(
        self,
        format: ExportFormat | None = None,
        quantization: Quantization | None = None,
        output: str | Path | None = None,
        notify: Notify | None = None,
        **settings: Any,
    ) -> Export:
        """Turn the trained adapter into a file to run, and prove that it behaves like what was trained.

        `settings` are the other fields of ExportConfig, such as `ollama_name="my-model"` or `overwrite=True`. `notify`
        receives the progress, in place of the display. Raises NotProven when the file differs.
        """
        named = {"format": format, "quantization": quantization, "output": output}
        given = {name: value for name, value in named.items() if value is not None}
        config = configured("export", ExportConfig, given | settings)
        return self._shown(lambda notify: export(self.adapter, config, notify), notify)

    def push(self, repo: str, **settings: Any) -> PushResult:
        """Upload what was trained to the model repository `repo` (owner/name) of the Hugging Face hub, with a card.

        `settings` are the fields of PushConfig, such as `private=True` or `gguf=True`. The token comes from HF_TOKEN or
        huggingface_hub's own file. Raises HubTokenMissing, and what `bp_export.hub.push` raises.
        """
        return gather(self.adapter, repo, configured("push", PushConfig, settings)).push()

    def generate(self, prompt: str, *, limit: int = 256, adapter: bool = True) -> str:
        """The model's greedy answer to one user message, at most `limit` tokens; with or without what was trained."""
        rail, tokenizer = self._reader(adapter)
        stop = tokenizer.stop_ids(Contract.read(self.adapter) if adapter else None)
        made = rail.generate(
            tokenizer.prompt([{"role": "user", "content": prompt}]), limit=limit, stop=stop, adapter=adapter
        )
        return tokenizer.decode([token for token in made if token not in stop]).strip()

    def evaluate(self, data: Data, *, notify: Notify | None = None, **settings: Any) -> Evaluation:
        """Measure loss and answers on rows that were not trained on: of what was trained, or of the base as it is.

        `settings` are the fields of EvalConfig; `against="base"` measures the base on the same rows, and the
        difference. Gates are judged in `.gates`, and never raise. Raises BadValue, and the errors of reading the data.
        """
        config = configured("eval", EvalConfig, settings, **self._computing())
        reading = dataclasses.asdict(self.config)
        return self._shown(lambda notify: evaluate(self._subject, data, config, notify, **reading), notify)

    def compare(self, prompts: str | Sequence[str], *, notify: Notify | None = None, **settings: Any) -> Comparison:
        """The answers of the base and of what was trained, and with `file="x.gguf"` of an export, side by side.

        `settings` are the fields of CompareConfig; the result writes itself with `.write(path)`.
        """
        config = configured("compare", CompareConfig, settings, **self._computing())
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return self._shown(lambda notify: compare(self._subject, texts, None, config, notify), notify)

    def close(self) -> None:
        """Let go of the model and its memory. The next call that needs it opens it again."""
        if self._rail:
            self._rail.close()
        self._rail = None

    def _computing(self) -> dict[str, Any]:
        return {"backend": self.config.backend, "dtype": self.config.dtype}

    def _shown(self, work: Callable[[Notify], Result], notify: Notify | None) -> Result:
        """The result of long work, its progress shown unless `notify` receives it. The open model makes room."""
        self.close()
        with shown(notify) as show:
            return work(show)

    def _with(self, settings: Mapping[str, Any]) -> TrainConfig:
        known(settings, TrainConfig)
        return dataclasses.replace(self.config, **{name: v for name, v in settings.items() if v is not None})

    def _resumed(self, name: bool | str, settings: Mapping[str, Any]) -> TrainConfig:
        """The settings of the run to go on with, and those that were given besides in their place.

        A process that does not lead may be on a machine where the run is not: it goes by what it was given, and is
        refused later if that differs.
        """
        given = self._given | {name: value for name, value in settings.items() if value is not None}
        try:
            run = to_resume(name, Path(self.config.output).resolve())
        except NothingToResume:
            if launch_env().rank == 0:
                raise
            return self._with(settings)
        return run_settings(run, given, self.config.output)

    def _keep(self, work: TrainingJob, result: Run) -> Run:
        """Leave what was trained open, unless all processes must take part to ask it."""
        self._rail, self._tokenizer, self._untrained = work.rail, work.tokenizer, False
        if work.plan.recipe.shared_out and launch_env().size > 1:
            self.close()
        return result

    def _follow(self, setup: TrainingSetup, signals: Signals) -> Run:
        """`train` in a process that does not lead. It prepares after rank 0, and so finds what that one has cached."""
        team = setup.rail.join()
        all_agree(team, no_op)
        lead = team.gather(None)[0]
        work = all_agree(team, lambda: follow_recipe(prepared_job(setup, silent), lead))
        run = RunFolder(Path(team.gather(None)[0]))
        self.close()
        return self._keep(work, carry_along(work, run, signals))

    def _reader(self, trained: bool) -> tuple[Rail, ChatTokenizer]:
        """The open rail, or the base with what was trained, if it was, opened for reading.

        A model trained whole and its base are two models, of which one is open.
        """
        untrained = self.config.mode == "full" and not trained
        if self._rail is None or self._tokenizer is None or untrained != self._untrained:
            self.close()
            _, rail, _ = choose_rail(self.config.backend)
            subject = Artifact.find(self.config.model if untrained else self._subject)
            job = subject.job(silent, self.config.dtype)
            rail.open(job)
            self._rail, self._tokenizer, self._untrained = rail, subject.tokenizer(job.model), untrained
        return self._rail, self._tokenizer
