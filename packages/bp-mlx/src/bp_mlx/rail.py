"""The MLX rail: the loop's verbs on Apple's GPUs, and the same code on a processor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import mlx.core as mx
import numpy as np
import psutil
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import make_prompt_cache

from bp_core import processor
from bp_core.adapter_config import AdapterConfig
from bp_core.choices import DType
from bp_core.config import TrainConfig
from bp_core.errors import OutOfMemory
from bp_core.examples import Batch
from bp_core.objectives import Losses, Objective, Scores
from bp_core.out_of_memory import RECOMPUTE, pieces
from bp_core.process_group import ProcessGroup, SingleProcess
from bp_core.rail import EvalSums, Job, Memory, ModelInfo, OnToken, Pick, Probe, TokenIds
from bp_core.recipe import Recipe

from . import adapter as adapters
from . import device, input_squares, memory_saving, objectives, padding, quantized, requirements
from . import model as models
from . import optimizer as optimizers
from ._errors import translated


class MlxRail:
    """One model on one device. Adapters are float32; base and matrix products are in the job's number format."""

    def __init__(self) -> None:
        self.base: models.Base | None = None
        self.optimizer: optimizers.AdamW | None = None
        self.parameters: optimizers.Arrays = {}
        self.gradients: optimizers.Arrays = {}
        self.settings: AdapterConfig | None = None
        self.max_grad_norm = math.inf
        self.base_name, self.source = "", Path()
        self.savings: list[str] = []
        self.objective = Objective(objectives.FUNCTIONS)
        self.limit = device.working_set()  # bytes
        self.peak = 0  # bytes, before MLX's counter was last reset

    def join(self) -> ProcessGroup:
        return SingleProcess()

    def probe(self) -> Probe:
        machine = psutil.virtual_memory()
        total = self.limit or machine.total
        dtype: DType = "bfloat16" if device.on_metal() else "float32"
        maker = "" if device.on_gpu() else processor.name()
        free = min(machine.available, total)
        return Probe(True, device.name(), total=total, free=free, dtype=dtype, processor=maker)

    def check(self, settings: TrainConfig) -> None:
        requirements.check(settings)

    def slowdown(self, dtype: DType) -> float | None:
        return device.slowdown() if dtype == "bfloat16" and not device.on_gpu() else None

    def open(self, job: Job) -> ModelInfo:
        if job.recipe:
            self.check(job.recipe)
        with translated():
            self.close()
            device.keep_within(self.limit)
            mode = job.recipe.mode if job.recipe else job.mode
            base = models.load_base(job.model, models.number_format(job.dtype), mode)
            self.base, self.source = base, job.model
            self.base_name = job.base_name or str(job.model)
            self.savings, self.objective = [], Objective.of(job.recipe, objectives.FUNCTIONS)
            count = quantized.count(base.model)
            self._attach(base, job)
        trainable = sum(value.size for value in self.parameters.values())
        format = quantized.format_of(base.model) or models.format_of(base)
        return ModelInfo(count - (trainable if mode == "full" else 0), trainable, device.name(), format)

    def _attach(self, base: models.Base, job: Job) -> None:
        """Add the job's adapter, and prepare for training if it has a recipe."""
        if job.adapter:
            self.settings = adapters.read(base.model, job.adapter)
        elif job.recipe and job.recipe.mode != "full":
            self.settings = adapters.new(base.model, job.recipe)
        if job.recipe:
            self._prepare(base, job.recipe)

    def _prepare(self, base: models.Base, recipe: Recipe) -> None:
        """Make the parameters of the recipe trainable, and build their optimizer."""
        models.check_length(base, recipe.max_length)
        if recipe.mode == "full":
            models.check_names(base, self.source)
            base.model.unfreeze()
        else:
            for layer in adapters.layers(base.model).values():
                layer.unfreeze(recurse=False)
        mx.random.seed(recipe.seed)
        base.model.train()
        self.parameters = dict(tree_flatten(base.model.trainable_parameters()))
        mx.eval(self.parameters)
        self.optimizer = optimizers.AdamW(self.parameters, recipe.weight_decay)
        self.max_grad_norm = recipe.max_grad_norm
        if recipe.activation_checkpointing:
            self._enable_saving(RECOMPUTE)

    def accumulate(self, batch: Batch, weight: float) -> float:
        with translated():
            self._note_peak()
            total = 0.0
            for part in pieces(batch, self.savings):
                base = self._base_scores(part) if self.objective.needs_base else None
                loss, gradients = mx.value_and_grad(self._weighted)(self.parameters, part, weight, base)
                self._put(self.parameters)
                summed = {name: self.gradients.get(name, 0.0) + value for name, value in gradients.items()}
                mx.eval(loss, summed)
                self.gradients = summed
                total += loss.item()
            self._watch_memory()
            return total

    def update(self, learning_rate: float) -> float:
        assert self.optimizer, "open a job with a recipe first"
        with translated():
            gradients, norm = optimizers.clip(self.gradients, self.max_grad_norm)
            if math.isfinite(norm):
                self.parameters = self.optimizer.step(self.parameters, gradients, learning_rate)
                self._put(self.parameters)
            self.gradients = {}
            return norm

    def save_memory(self, level: int) -> str | None:
        for way in memory_saving.ways(self._base().layers, of_tokens=self.objective.method == "sft"):
            if way not in self.savings:
                self._enable_saving(way)
                return way
        return None

    def discard(self) -> None:
        self.gradients = {}
        if self.base:  # a failed call may have left traced arrays as its parameters
            self._put(self.parameters)
        mx.clear_cache()

    def evaluate(self, batch: Batch) -> EvalSums:
        with translated(), self._reading(adapter=True):
            losses, margins = self._losses(batch, self._base_scores(batch) if self.objective.needs_base else None)
            return EvalSums(float(losses.sum().item()), len(losses), int((margins > 0).sum().item()))

    def kl_reference(self, batch: Batch) -> float:
        with translated():
            with self._reading(adapter=True):
                now = self._scores(batch).sums
            return float((now - self._base_scores(batch).sums).sum().item())

    def logits(self, tokens: TokenIds, *, adapter: bool = True) -> np.ndarray:
        with translated(), self._reading(adapter):
            models.check_length(self._base(), len(tokens))
            return np.array(self._base().model(mx.array(np.asarray(tokens, np.int32)[None]))[0].astype(mx.float32))

    def input_squares(self, rows: Sequence[TokenIds]) -> dict[str, np.ndarray]:
        model = self._base().model
        with translated(), self._reading(adapter=True), input_squares.recorded(model) as sums:
            for tokens in rows:
                models.check_length(self._base(), len(tokens))
                logits = model(mx.array(np.asarray(tokens, np.int32)[None]))
                mx.eval(logits, sums)
        return {adapters.name_in_transformers(name): np.array(values) for name, values in sums.items()}

    def generate(
        self,
        prompt: TokenIds,
        *,
        limit: int,
        stop: TokenIds,
        adapter: bool = True,
        on_token: OnToken = None,
        pick: Pick = None,
    ) -> list[int]:
        generated: list[int] = []
        with translated(), self._reading(adapter):
            cache = make_prompt_cache(self._base().model)
            ids = list(prompt)
            while len(generated) < limit and (not generated or generated[-1] not in stop):
                models.check_length(self._base(), len(prompt) + len(generated))
                last = models.Positions(mx.array([0]), mx.array([len(ids) - 1]))
                logits = models.logits(self._base(), mx.array([ids]), last, cache)
                chosen = pick(np.array(logits.astype(mx.float32)).reshape(-1)) if pick else int(logits.argmax().item())
                generated.append(chosen)
                ids = generated[-1:]
                if on_token:
                    on_token(generated[-1])
        return generated

    def collect(self) -> None:
        return None

    def save(self, folder: Path) -> None:
        assert self.optimizer, "open a job with a recipe first"
        optimizers.save(folder, self.parameters, self.optimizer)

    def restore(self, folder: Path) -> None:
        assert self.optimizer, "open a job with a recipe first"
        self.parameters = optimizers.restore(folder, self.parameters, self.optimizer)
        self.gradients = {}
        self._put(self.parameters)

    def write_adapter(self, folder: Path) -> None:
        assert self.settings, "there is no adapter to write"
        adapters.write(self._base().model, self.settings, folder, self.base_name)

    def write_model(self, folder: Path) -> None:
        assert not self.settings, "an adapter was trained, not the model"
        models.write(self._base(), folder, self.source)

    def memory(self) -> Memory:
        total = self.limit or psutil.virtual_memory().total
        return Memory(mx.get_active_memory(), max(self.peak, mx.get_peak_memory()), total)

    def close(self) -> None:
        self.base = self.optimizer = self.settings = None
        self.parameters = {}
        self.discard()
        self.peak = 0
        mx.reset_peak_memory()

    def _base(self) -> models.Base:
        assert self.base is not None, "open a job first"
        return self.base

    def _put(self, parameters: optimizers.Arrays) -> None:
        self._base().model.update(tree_unflatten(list(parameters.items())))

    def _weighted(self, parameters: optimizers.Arrays, batch: Batch, weight: float, base: Scores | None) -> mx.array:
        self._put(parameters)
        return self._losses(batch, base)[0].sum() * weight

    def _losses(self, batch: Batch, base: Scores | None) -> Losses:
        """The losses and margins of the tokens, pairs or rated examples, float32 [their number] each.

        `base`: the scores of the base alone, for methods that need them.
        """
        if self.objective.method == "sft":
            losses = mx.concatenate([mx.zeros(0), *(self._token_losses(grid) for grid in padding.grids(batch))])
            return losses, losses[:0]
        if base is None:
            return self.objective.of_pairs(self._scores(batch))
        desirable = mx.array(np.asarray(batch.desirable))
        return self.objective.of_rated(self._scores(batch), base, desirable, batch.kl_reference)

    def _scores(self, batch: Batch) -> Scores:
        """Of each example the log-probability of its trained tokens and their number, float32 [examples] each."""
        sums = mx.zeros(len(batch.lengths))
        counts = np.zeros(len(batch.lengths), np.float32)
        for grid in padding.grids(batch):
            sums = sums.at[mx.array(grid.owners)].add(-self._token_losses(grid))
            np.add.at(counts, grid.owners, 1)
        return Scores(sums, mx.array(counts))

    def _base_scores(self, batch: Batch) -> Scores:
        with self._reading(adapter=False):
            scores = self._scores(batch)
            mx.eval(scores.sums)
            return scores

    def _token_losses(self, grid: padding.Grid) -> mx.array:
        """Cross-entropy of each trained token, float32 [targets]; logits are computed for those only."""
        for layer in adapters.layers(self._base().model).values():
            layer.draw()
        places = models.Positions(mx.array(grid.rows), mx.array(grid.columns))
        logits = models.logits(self._base(), mx.array(grid.tokens), places)
        return objectives.cross_entropy(logits, mx.array(grid.targets))

    def _enable_saving(self, way: str) -> None:
        if way == RECOMPUTE:
            memory_saving.recompute_layers(self._base().layers)
        self.savings.append(way)

    def _reading(self, adapter: bool) -> AbstractContextManager[ExitStack]:
        """Inside, the model is in evaluation mode, with or without its adapter."""
        model = self._base().model
        stack = ExitStack()
        stack.callback(model.train, model.training)
        model.eval()
        assert adapter or self.settings or not self.parameters, "after a full fine-tune the base is gone"
        if not adapter:
            stack.enter_context(adapters.switched_off(model))
        return stack

    def _watch_memory(self) -> None:
        """Raise OutOfMemory when memory went beyond the limit, before a larger batch kills the process."""
        used = self._note_peak()
        if self.limit and used > self.limit:
            raise OutOfMemory(f"a micro-batch took {used / 2**30:.1f} GiB, and {self.limit / 2**30:.1f} are safe here.")

    def _note_peak(self) -> int:
        """The peak memory since the last call, in bytes; MLX's counter is reset."""
        used = mx.get_peak_memory()
        self.peak = max(self.peak, used)
        mx.reset_peak_memory()
        return used
