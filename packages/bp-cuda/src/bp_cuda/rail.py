"""The PyTorch rail: the loop's verbs on CUDA, and the same code on the CPU."""

from __future__ import annotations

import gc
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from bp_core.choices import DType
from bp_core.config import FP8_CARD, TrainConfig
from bp_core.errors import BackendUnavailable
from bp_core.examples import Batch
from bp_core.objectives import Losses, Objective, Scores
from bp_core.out_of_memory import RECOMPUTE, pieces
from bp_core.process_group import ProcessGroup, SingleProcess, all_agree, launch_env, no_op
from bp_core.rail import EvalSums, Job, Memory, ModelInfo, OnToken, Pick, Probe, TokenIds
from bp_core.recipe import Recipe

from . import adapter as adapters
from . import (
    attention,
    fsdp,
    fusion,
    gradients,
    input_squares,
    loading,
    memory_saving,
    objectives,
    process_group,
    processor,
    requirements,
    row_embedding,
)
from . import device as devices
from . import model as models
from . import optimizer as optimizers
from ._errors import translated
from .key_value_cache import cache_argument
from .lean_peft import PeftModel
from .transfer import to_device


class TorchRail:
    """One model on one device. Adapters are float32; matrix products are bfloat16 where that is fast (autocast)."""

    emulates_float8 = False  # for tests: float8 on the CPU, rounded as on a card

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.model: PreTrainedModel | PeftModel | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.parameters: optimizers.Parameters = {}
        self.max_grad_norm = math.inf
        self.computed = torch.float32
        self.head: fusion.Head | None = None
        self.base_name = ""
        self.savings: list[str] = []
        self.objective = Objective(objectives.FUNCTIONS)
        self.group: ProcessGroup = SingleProcess()
        self.shared_out = False  # over several processes
        self.collected: optimizers.Contents | None = None

    def join(self) -> ProcessGroup:
        self.group = process_group.join(self.device)
        return self.group

    def probe(self) -> Probe:
        return devices.probe(self.device)

    def check(self, settings: TrainConfig) -> None:
        capability = FP8_CARD if self.emulates_float8 else devices.capability(self.device)
        requirements.check(settings, self.device.type, capability)

    def slowdown(self, dtype: DType) -> float | None:
        emulated = dtype == "bfloat16" and self.device.type == "cpu" and not processor.multiplies_bfloat16()
        return processor.slowdown(torch.bfloat16) if emulated else None

    def open(self, job: Job) -> ModelInfo:
        probe = self.probe()
        if not probe.available:
            raise BackendUnavailable(f"backend {self.device.type} cannot run here: {probe.reason}.")
        if job.recipe:
            self.check(job.recipe)
        with translated():
            self.close()
            if job.recipe:
                self.join()
            loaded = loading.load(job, self.device, emulate_float8=self.emulates_float8)
            self.model, self.separable, self.computed = loaded.model, loaded.separable, loaded.computed
            self.head = loaded.head
            self.base_name = job.base_name or str(job.model)
            self.savings, self.objective = [], Objective.of(job.recipe, objectives.FUNCTIONS)
            if job.recipe:
                self._prepare(job.recipe)
        count = loaded.base.num_parameters()
        trainable = sum(parameter.numel() for parameter in self.parameters.values())
        by = loading.computed_by(loaded) if job.recipe else ""
        return ModelInfo(count - trainable, trainable, probe.device, loaded.format, devices.card(self.device), by)

    def _prepare(self, recipe: Recipe) -> None:
        """Get ready to train, with the same weights in every process."""
        torch.manual_seed(recipe.seed)
        model = self._model().train()
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = optimizers.build(self.parameters, recipe)
        self.max_grad_norm = recipe.max_grad_norm
        self.shared_out = recipe.shared_out and self.group.size > 1
        if isinstance(model, PreTrainedModel) and not recipe.shared_out:
            row_embedding.install(model)
        gradients.broadcast_tensors(self._kept().values())
        self.gradients = gradients.Gradients(self.group, self.parameters)
        if recipe.activation_checkpointing:
            self._enable_saving(RECOMPUTE)

    def accumulate(self, batch: Batch, weight: float) -> float:
        with self._collective(), translated():
            losses = []
            for part in self._parts(batch, self.savings):
                with memory_saving.activations(self.savings):
                    loss = self._losses(part)[0].sum() * weight
                loss.backward()
                losses.append(loss.detach())
            return math.fsum(torch.stack(losses).tolist())  # the one time that the host waits for the card

    def update(self, learning_rate: float) -> float:
        assert self.optimizer, "open a job with a recipe first"
        with translated():
            norm = self.gradients.clip(self.max_grad_norm)
            gradients.broadcast_random_state(self.group, self.device)
            if math.isfinite(norm):
                self.optimizer.param_groups[0]["lr"] = learning_rate
                with gradients.irreversible(self.group), translated():
                    self.optimizer.step()
            self.optimizer.zero_grad()
            return norm

    def save_memory(self, level: int) -> str | None:
        if self.shared_out:
            return None  # with sharded weights OutOfMemory ends the run: the other processes cannot replay the step
        for way in memory_saving.ways(self._model(), of_tokens=self.objective.method == "sft"):
            if way not in self.savings:
                self._enable_saving(way)
                return way
        return None

    def discard(self) -> None:
        if self.optimizer:
            self.optimizer.zero_grad()
        gc.collect()
        devices.give_back(self.device)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> EvalSums:
        with self._collective(), translated(), self._reading(adapter=True):
            parts = [self._losses(part) for part in self._parts(batch, ())]
            losses, margins = map(torch.cat, zip(*parts, strict=True))
            return EvalSums(losses.sum().item(), len(losses), int((margins > 0).sum()))

    @torch.no_grad()
    def kl_reference(self, batch: Batch) -> float:
        with self._collective(), translated():
            with self._reading(adapter=True):
                now = self._scores(batch).sums
            return float((now - self._base_scores(batch).sums).sum())

    @torch.inference_mode()
    def logits(self, tokens: TokenIds, *, adapter: bool = True) -> np.ndarray:
        with translated(), self._reading(adapter):
            ids = torch.tensor([list(tokens)], device=self.device)
            logits: Tensor = self._model()(input_ids=ids, use_cache=False).logits[0]
            return logits.float().cpu().numpy()

    @torch.inference_mode()
    def input_squares(self, rows: Sequence[TokenIds]) -> dict[str, np.ndarray]:
        with translated(), self._reading(adapter=True), input_squares.recorded(self._model()) as sums:
            for tokens in rows:
                ids = torch.tensor([list(tokens)], device=self.device)
                self._model()(input_ids=ids, use_cache=False, logits_to_keep=1)
        return {name: values.numpy() for name, values in sums.items()}

    @torch.inference_mode()
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
            model = self._model()
            cache = DynamicCache(config=model.config)
            cached = {cache_argument(model): cache}
            ids = torch.tensor([list(prompt)], device=self.device)
            while len(generated) < limit and (not generated or generated[-1] not in stop):
                logits = model(input_ids=ids, use_cache=True, logits_to_keep=1, **cached).logits
                last = logits[0, -1]
                generated.append(pick(last.float().cpu().numpy()) if pick else int(last.argmax()))
                ids = torch.tensor([generated[-1:]], device=self.device)
                if on_token:
                    on_token(generated[-1])
        return generated

    def collect(self) -> None:
        assert self.optimizer, "open a job with a recipe first"
        if self.shared_out and not isinstance(self.model, PeftModel):
            with self._collective(), translated():
                self.collected = optimizers.contents(self._kept(), self.optimizer, kept=self.group.rank == 0)

    def save(self, folder: Path) -> None:
        with translated():
            optimizers.save(folder, self._contents())
        self.collected = None

    def restore(self, folder: Path) -> None:
        assert self.optimizer, "open a job with a recipe first"
        kept = self._kept()
        read = partial(optimizers.read, folder, kept, self.optimizer)
        saved = all_agree(self.group, read if self.group.rank == 0 else no_op)
        optimizers.receive(saved, kept, self.optimizer)
        gradients.broadcast_random_state(self.group, self.device)

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
        return devices.memory(self.device)

    def close(self) -> None:
        self.model = self.optimizer = self.head = None
        self.parameters = {}
        self.discard()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _model(self) -> PreTrainedModel | PeftModel:
        assert self.model is not None, "open a job first"
        return self.model

    def _contents(self) -> optimizers.Contents:
        """What `collect` gathered; without sharding, this process's tensors."""
        assert self.optimizer, "open a job with a recipe first"
        return self.collected or optimizers.contents(self._kept(), self.optimizer)

    def _collective(self) -> AbstractContextManager[Any]:
        """The context of a forward or backward pass."""
        return fsdp.collective(self.group) if self.shared_out else nullcontext()

    def _kept(self) -> optimizers.Parameters:
        """The parameters that a checkpoint needs, by name."""
        model = self._model()
        return self.parameters | (adapters.frozen(model) if isinstance(model, PeftModel) else {})

    def _losses(self, batch: Batch) -> Losses:
        """The losses and margins of the tokens, pairs or rated examples, float32 [their number] each."""
        if self.objective.method == "sft":
            losses = self._token_losses(batch)
            return losses, losses[:0]
        if self.objective.needs_base:
            base = self._base_scores(batch)
            desirable = to_device(np.asarray(batch.desirable), self.device)
            return self.objective.of_rated(self._scores(batch), base, desirable, batch.kl_reference)
        return self.objective.of_pairs(self._scores(batch))

    def _scores(self, batch: Batch) -> Scores:
        """Of each example the log-probability of its trained tokens and their number, float32 and int64 [examples]."""
        scores = []
        for row in self._rows(batch):
            example_of = np.repeat(np.arange(len(row.lengths)), row.lengths)[np.asarray(row.trained)]
            examples = to_device(example_of, self.device)
            losses = self._token_losses(row)
            sums = torch.zeros(len(row.lengths), device=self.device).index_add(0, examples, -losses)
            scores.append((sums, to_device(np.bincount(example_of, minlength=len(row.lengths)), self.device)))
        return Scores(*(torch.cat(parts) for parts in zip(*scores, strict=True)))

    def _base_scores(self, batch: Batch) -> Scores:
        with torch.no_grad(), self._reading(adapter=False):
            return self._scores(batch)

    def _token_losses(self, batch: Batch) -> Tensor:
        """Cross-entropy of each trained token, float32 [trained tokens]; logits are computed for those only."""
        tokens = to_device(np.asarray(batch.tokens, dtype=np.int64), self.device)
        targets = to_device(np.flatnonzero(np.asarray(batch.trained)), self.device)
        lengths = np.asarray(batch.lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        row = {
            "input_ids": tokens[None],
            "position_ids": to_device(positions, self.device)[None],
            "use_cache": False,
            **attention.borders(self._model().config._attn_implementation, lengths, self.device),
        }
        with self._autocast():
            return fusion.losses(self._model(), self.head, row, targets)

    def _enable_saving(self, way: str) -> None:
        if way == RECOMPUTE and way in memory_saving.ways(self._model(), of_tokens=True):
            memory_saving.recompute_layers(self._model())
        self.savings.append(way)

    def _parts(self, batch: Batch, savings: Collection[str]) -> Iterator[Batch]:
        """The parts to compute one after another; preference losses need the whole batch at once."""
        if self.objective.method != "sft":
            yield batch
            return
        for row in self._rows(batch):
            yield from pieces(row, savings)

    def _rows(self, batch: Batch) -> Iterator[Batch]:
        """The whole batch, or one example at a time for models that cannot keep examples in a row apart."""
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
        """Inside, the model is in evaluation mode, with or without its adapter."""
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
        super().__init__(f"cuda:{launch_env().local_rank}")
