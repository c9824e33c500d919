"""The PyTorch rail: the loop's verbs on CUDA, and the same code on the CPU."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel

from bp_core import processor as host_processor
from bp_core.choices import DType
from bp_core.config import FP8_CARD, TrainConfig
from bp_core.errors import BackendUnavailable
from bp_core.examples import Batch
from bp_core.objectives import Losses, Objective, Scores
from bp_core.process_group import Alone, Team, agreed, launched, nothing
from bp_core.rail import Job, Measured, Memory, Opened, Probe
from bp_core.recipe import Recipe

from . import adapter as adapters
from . import (
    attention,
    fsdp,
    gradients,
    host_memory,
    loading,
    memory_saving,
    objectives,
    process_group,
    processor,
    requirements,
)
from . import model as models
from . import optimizer as optimizers
from ._errors import translated
from .lean_peft import PeftModel


class TorchRail:
    """One model on one device. Adapters are float32; products are bfloat16 where that is fast (autocast)."""

    emulates_float8 = False  # for tests: float8 products on the CPU, rounded as a card does

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.model: PreTrainedModel | PeftModel | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.parameters: optimizers.Parameters = {}
        self.max_grad_norm = math.inf
        self.computed = torch.float32
        self.base_name = ""
        self.reliefs: list[str] = []
        self.objective = Objective(objectives.FUNCTIONS)
        self.team: Team = Alone()
        self.shared_out = False  # over several processes
        self.collected: optimizers.Contents | None = None

    def join(self) -> Team:
        self.team = process_group.join(self.device)
        return self.team

    def probe(self) -> Probe:
        if self.device.type == "cpu":
            host = psutil.virtual_memory()
            free = host.available // launched().local_size  # shared by the processes that a launcher started here
            probe = Probe(True, "cpu", total=host.total, free=free, dtype=self._auto())
            return replace(probe, processor=host_processor.name(), instructions=processor.instructions())
        if not torch.cuda.is_available():
            built = torch.version.cuda is not None
            reason = "no NVIDIA driver or card was found" if built else "this torch was built without CUDA"
            return Probe(False, "cuda", reason)
        if (number := self.device.index or 0) >= (found := torch.cuda.device_count()):
            return Probe(False, "cuda", f"process {number} of this machine has no card; there are {found}")
        free, total = torch.cuda.mem_get_info(self.device)
        return Probe(True, torch.cuda.get_device_name(self.device), total=total, free=free, dtype=self._auto())

    def check(self, settings: TrainConfig | Recipe) -> None:
        requirements.check(settings, self.device.type, self._capability())

    def slowdown(self, dtype: DType) -> float | None:
        emulated = dtype == "bfloat16" and self.device.type == "cpu" and not processor.multiplies_bfloat16()
        return processor.slowdown(torch.bfloat16) if emulated else None

    def open(self, job: Job) -> Opened:
        probe = self.probe()
        if not probe.available:
            raise BackendUnavailable(f"backend {self.device.type} cannot run here: {probe.reason}.")
        if job.recipe:
            self.check(job.recipe)
        with translated():
            self.close()
            if job.recipe:
                self.join()
            found = loading.load(job, self.device, emulate_float8=self.emulates_float8)
            self.model, self.separable, self.computed = found.model, found.separable, found.computed
            self.base_name = job.base_name or str(job.model)
            self.reliefs, self.objective = [], Objective.of(job.recipe, objectives.FUNCTIONS)
            if job.recipe:
                self._prepare(job.recipe)
        count = found.base.num_parameters()
        trainable = sum(parameter.numel() for parameter in self.parameters.values())
        return Opened(count - trainable, trainable, probe.device, found.format, card=self._card())

    def _prepare(self, recipe: Recipe) -> None:
        """Be ready to train, with the same numbers in every process."""
        torch.manual_seed(recipe.seed)
        model = self._model().train()
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = optimizers.build(self.parameters, recipe)
        self.max_grad_norm = recipe.max_grad_norm
        self.shared_out = recipe.shared_out and self.team.size > 1
        gradients.same(self.team, self._kept().values())
        self.gradients = gradients.Gradients(self.team, self.parameters)
        if recipe.activation_checkpointing:
            self._relieve_by(memory_saving.RECOMPUTE)

    def accumulate(self, batch: Batch, weight: float) -> float:
        with self._passing(), translated():
            total = 0.0
            for part in self._parts(batch, self.reliefs):
                with memory_saving.activations(self.reliefs):
                    loss = self._losses(part)[0].sum() * weight
                loss.backward()
                total += loss.item()
            return total

    def update(self, learning_rate: float) -> float:
        assert self.optimizer, "open a job with a recipe first"
        with translated():
            norm = self.gradients.clip(self.max_grad_norm)
            gradients.same_chance(self.team, self.device)
            if math.isfinite(norm):
                self.optimizer.param_groups[0]["lr"] = learning_rate
                with gradients.once(self.team), translated():
                    self.optimizer.step()
            self.optimizer.zero_grad()
            return norm

    def relieve(self, level: int) -> str | None:
        if self.shared_out:
            return None  # memory that runs out ends a run whose processes compute together
        able = memory_saving.ways(self._model(), of_tokens=self.objective.method == "sft")
        ways = [way for way in able if way not in self.reliefs]
        if not ways:
            return None
        self._relieve_by(ways[0])
        return ways[0]

    def discard(self) -> None:
        if self.optimizer:
            self.optimizer.zero_grad()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            host_memory.give_back()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Measured:
        model = self._model()
        training = model.training
        model.eval()
        try:
            with self._passing(), translated():
                parts = [self._losses(part) for part in self._parts(batch, ())]
                losses, margins = (torch.cat(found) for found in zip(*parts, strict=True))
                return Measured(losses.sum().item(), len(losses), int((margins > 0).sum()))
        finally:
            model.train(training)

    @torch.no_grad()
    def drift(self, batch: Batch) -> float:
        with self._passing(), translated():
            with self._reading(adapter=True):
                now = self._scores(batch).sums
            return float((now - self._base_scores(batch).sums).sum())

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int], *, adapter: bool = True) -> np.ndarray:
        with translated(), self._reading(adapter):
            ids = torch.tensor([list(tokens)], device=self.device)
            logits: Tensor = self._model()(input_ids=ids, use_cache=False).logits[0]
            return logits.float().cpu().numpy()

    @torch.inference_mode()
    def generate(
        self,
        prompt: Sequence[int],
        *,
        limit: int,
        stop: Sequence[int],
        adapter: bool = True,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        made: list[int] = []
        with translated(), self._reading(adapter):
            cache = DynamicCache(config=self._model().config)
            ids = torch.tensor([list(prompt)], device=self.device)
            while len(made) < limit and (not made or made[-1] not in stop):
                logits = self._model()(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                made.append(int(logits[0, -1].argmax()))
                ids = torch.tensor([made[-1:]], device=self.device)
                if on_token:
                    on_token(made[-1])
        return made

    def collect(self) -> None:
        assert self.optimizer, "open a job with a recipe first"
        if self.shared_out and not isinstance(self.model, PeftModel):
            with self._passing(), translated():
                self.collected = optimizers.contents(self._kept(), self.optimizer, kept=self.team.rank == 0)

    def save(self, folder: Path) -> None:
        with translated():
            optimizers.save(folder, self._contents())
        self.collected = None

    def restore(self, folder: Path) -> None:
        assert self.optimizer, "open a job with a recipe first"
        leads, kept = self.team.rank == 0, self._kept()
        if self.shared_out and not isinstance(self.model, PeftModel):
            found = agreed(self.team, partial(optimizers.read, folder, kept) if leads else nothing)
            optimizers.receive(found, kept, self.optimizer)
        else:
            agreed(self.team, partial(optimizers.restore, folder, kept, self.optimizer) if leads else nothing)
        gradients.same(self.team, optimizers.tensors(self._kept(), self.optimizer))
        counted = self.team.gather(optimizers.counts(self._kept(), self.optimizer))[0]
        optimizers.set_counts(self._kept(), self.optimizer, counted)
        gradients.same_chance(self.team, self.device)

    def write_adapter(self, folder: Path) -> None:
        model = self._model()
        assert isinstance(model, PeftModel), "there is no adapter to write"
        adapters.write(model, folder, self.base_name)

    def write_model(self, folder: Path) -> None:
        model = self._model()
        assert isinstance(model, PreTrainedModel), "an adapter was trained, not the model"
        models.write(model, folder, self._contents().weights)
        self.collected = None

    def memory(self) -> Memory:
        if self.device.type == "cuda":
            used, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            free, total = torch.cuda.mem_get_info()
            return Memory(used, peak, total, free if memory_saving.SPILLS else None)
        return host_memory.memory()

    def close(self) -> None:
        self.model = self.optimizer = None
        self.parameters = {}
        self.discard()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _model(self) -> PreTrainedModel | PeftModel:
        assert self.model is not None, "open a job first"
        return self.model

    def _contents(self) -> optimizers.Contents:
        """What was collected, or where nothing is shared out, what is here."""
        assert self.optimizer, "open a job with a recipe first"
        return self.collected or optimizers.contents(self._kept(), self.optimizer)

    def _passing(self) -> AbstractContextManager[Any]:
        """Whether all processes take part in each pass."""
        return fsdp.passing(self.team) if self.shared_out else nullcontext()

    def _kept(self) -> optimizers.Parameters:
        """What a checkpoint holds of the model."""
        model = self._model()
        return self.parameters | (adapters.frozen(model) if isinstance(model, PeftModel) else {})

    def _losses(self, batch: Batch) -> Losses:
        """Of the tokens, pairs or rated examples."""
        if self.objective.method == "sft":
            losses = self._token_losses(batch)
            return losses, losses[:0]
        if self.objective.needs_base:
            base = self._base_scores(batch)
            desirable = torch.as_tensor(batch.desirable, device=self.device)
            return self.objective.of_rated(self._scores(batch), base, desirable, batch.drift)
        return self.objective.of_pairs(self._scores(batch))

    def _scores(self, batch: Batch) -> Scores:
        """How likely the trained tokens of each example are."""
        found = []
        for row in self._rows(batch):
            owners = np.repeat(np.arange(len(row.lengths)), row.lengths)[np.asarray(row.trained)]
            places = torch.as_tensor(owners, device=self.device)
            losses = self._token_losses(row)
            sums = torch.zeros(len(row.lengths), device=self.device).index_add(0, places, -losses)
            found.append((sums, torch.bincount(places, minlength=len(row.lengths))))
        return Scores(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _base_scores(self, batch: Batch) -> Scores:
        with torch.no_grad(), self._reading(adapter=False):
            return self._scores(batch)

    def _token_losses(self, batch: Batch) -> Tensor:
        """Cross-entropy of each trained token, float32. Logits exist only where a target is."""
        tokens = torch.as_tensor(np.asarray(batch.tokens, dtype=np.int64), device=self.device)
        targets = torch.as_tensor(np.flatnonzero(np.asarray(batch.trained)), device=self.device)
        lengths = np.asarray(batch.lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        with self._autocast():
            logits = self._model()(
                input_ids=tokens[None],
                position_ids=torch.as_tensor(positions, device=self.device)[None],
                **attention.borders(self._model().config._attn_implementation, lengths, self.device),
                logits_to_keep=targets - 1,
                use_cache=False,
            ).logits[0]
        if len(logits) != len(targets):  # Unsloth computes all, whatever is asked for
            logits = logits[targets - 1]
        return cross_entropy(logits.float(), tokens[targets], reduction="none")

    def _relieve_by(self, way: str) -> None:
        if way == memory_saving.RECOMPUTE and way in memory_saving.ways(self._model(), of_tokens=True):
            memory_saving.recompute_layers(self._model())
        self.reliefs.append(way)

    def _auto(self) -> DType:
        _, computed = models.number_formats("auto", self.device, full=False)
        return "bfloat16" if computed == torch.bfloat16 else "float32"

    def _card(self) -> str:
        """The card's UUID as NVML knows it."""
        return f"GPU-{torch.cuda.get_device_properties(self.device).uuid}" if self.device.type == "cuda" else ""

    def _capability(self) -> requirements.Capability | None:
        """The card's compute capability."""
        if self.emulates_float8:
            return FP8_CARD
        found = self.device.type == "cuda" and torch.cuda.is_available()
        return torch.cuda.get_device_capability(self.device) if found else None

    def _parts(self, batch: Batch, reliefs: Collection[str]) -> Iterator[Batch]:
        """What is computed at once. A comparison needs its examples whole, and together."""
        if self.objective.method != "sft":
            yield batch
            return
        for row in self._rows(batch):
            yield from memory_saving.pieces(row, reliefs)

    def _rows(self, batch: Batch) -> Iterator[Batch]:
        """The batch as it is, or one example at a time for models whose layers would leak between neighbours."""
        if self.separable:
            yield batch
            return
        ends = np.cumsum(batch.lengths)
        for end, length in zip(ends, batch.lengths, strict=True):
            row = slice(end - length, end)
            yield Batch(batch.tokens[row], batch.trained[row], [length])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.computed == torch.bfloat16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _reading(self, adapter: bool) -> AbstractContextManager[Any]:
        """The model in evaluation mode, with or without its adapter, put back afterwards."""
        model = self._model()
        stack = ExitStack()
        stack.callback(model.train, model.training)
        model.eval()
        stack.enter_context(self._autocast())
        assert adapter or isinstance(model, PeftModel) or not self.parameters, "after a full fine-tune the base is gone"
        if not adapter and isinstance(model, PeftModel):
            stack.enter_context(adapters.switched_off(model))
        return stack


class CpuRail(TorchRail):
    """`--backend cpu`."""

    def __init__(self) -> None:
        super().__init__("cpu")


class CudaRail(TorchRail):
    """`--backend cuda`."""

    def __init__(self) -> None:
        super().__init__(f"cuda:{launched().local_rank}")
