"""What benchmarks/gpu.py measures: one training step after another, of models with random weights.

Each part returns what it measured as JSON. `dry`: the same code on tiny models on the processor, whose numbers say
nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from random_model import random_base, random_weights, write_config

from bp_core.config import TrainConfig
from bp_core.errors import OutOfMemory
from bp_core.examples import Batch
from bp_core.rail import Job
from bp_core.recipe import Recipe
from bp_cuda.rail import CpuRail, CudaRail
from bp_plan.defaults import for_machine
from bp_plan.memory import GIB
from bp_plan.micro_batch import StepPlan
from bp_plan.presets import PRESETS
from bp_plan.recipe import resolve
from bp_plan.rows import DeviceInfo, full_rows

Result = dict[str, Any]
SMALL_CARD = 15.2  # GiB that a card of 16 GB has free beside a desktop
_TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 300, "head_dim": 16}
_TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}
_WARM_UP, _STEPS = 2, 6
_ADAPTERS = ("lora", "qlora")


@dataclass(frozen=True)
class Bench:
    """Where to measure, and with how much memory to plan (GiB; None: all that is free)."""

    dry: bool
    free: float | None = None

    def config(self, preset: str) -> Mapping[str, Any]:
        config = dict(PRESETS[preset].config)
        return config | _TINY if self.dry else config

    def length(self, tokens: int) -> int:
        return min(tokens, 64) if self.dry else tokens

    def device(self) -> DeviceInfo:
        if self.dry:
            return DeviceInfo("cpu", None, "float32")
        free, _ = torch.cuda.mem_get_info()
        return DeviceInfo("cuda", free if self.free is None else int(self.free * GIB), "bfloat16")

    def plan(self, preset: str, length: int, **settings: Any) -> tuple[Recipe, StepPlan]:
        if self.dry and settings.get("optimizer") not in (None, "adamw"):
            settings["optimizer"] = "adamw-8bit"
        machine = for_machine(TrainConfig(max_length=length, **settings), self.device())
        return resolve(machine, full_rows(8, length), self.config(preset))

    def opened(self, preset: str, recipe: Recipe, folder: Path) -> CpuRail | CudaRail:
        rail = CpuRail() if self.dry else CudaRail()
        base = write_config(self.config(preset), folder / preset)
        with random_weights():
            rail.open(Job(base, recipe=recipe, dtype=recipe.dtype))
        return rail


def rows(count: int, length: int) -> Batch:
    """A micro-batch of `count` rows of `length` tokens, all learned but the first of each."""
    tokens = np.arange(count * length, dtype=np.int32) * 37 % 251 + 3
    trained = np.ones(count * length, dtype=np.bool_)
    trained[::length] = False
    return Batch(tokens, trained, np.full(count, length, dtype=np.int32))


def memory(bench: Bench) -> list[Result]:
    """The estimate against the allocator's peak, in twelve ways."""
    cells = [
        (preset, length, settings)
        for preset in ("llama-3.2-1b", "qwen2.5-3b")
        for length, settings in (
            (1024, {"mode": "lora"}),
            (4096, {"mode": "lora", "activation_checkpointing": True}),
            (1024, {"mode": "qlora"}),
            (4096, {"mode": "qlora", "activation_checkpointing": True}),
            (1024, {"mode": "lora-8bit"}),
            (1024, {"mode": "full", "optimizer": "host-adamw-8bit", "activation_checkpointing": True}),
        )
    ]
    return [_cell(bench, preset, bench.length(length), settings) for preset, length, settings in cells]


def _cell(bench: Bench, preset: str, length: int, settings: Mapping[str, Any]) -> Result:
    recipe, step = bench.plan(preset, length, micro_batch=1, **settings)
    row: Result = {"preset": preset, "length": length, **settings}
    with tempfile.TemporaryDirectory() as folder:
        rail = bench.opened(preset, recipe, Path(folder))
        try:
            for _ in range(2):
                for _ in range(2):
                    rail.accumulate(rows(1, length), 1 / length)
                rail.update(1e-4)
            row["peak"] = rail.memory().peak
        except OutOfMemory:
            row["peak"] = None
        finally:
            rail.close()
    row["estimated"] = step.estimate.tensors if step.estimate else None
    if row["peak"] and row["estimated"] and not bench.dry:
        row["error"] = round(row["estimated"] / row["peak"] - 1, 4)
    return row


def small_card(bench: Bench) -> Result:
    """A card of 16 GB, as a share of this one's memory: a 7B at 2048 tokens and at the longest, all of a 3B."""
    if not bench.dry:
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, SMALL_CARD * GIB / total))
        bench = replace(bench, free=SMALL_CARD)
    lengths = [bench.length(2048)] if bench.dry else [2048, 4096, 8192, 12288, 16384]
    found: Result = {"7b": [], "3b full": _trains(bench, "llama-3.2-3b", bench.length(1024), mode="full")}
    for length in lengths:
        found["7b"].append(_trains(bench, "qwen2.5-7b", length))
        if not found["7b"][-1]["trained"]:
            break
    return found


def _trains(bench: Bench, preset: str, length: int, **settings: Any) -> Result:
    """Whether two steps are made within the memory, as planned."""
    recipe, step = bench.plan(preset, length, **settings)
    row: Result = {
        "preset": preset, "length": length, "mode": recipe.mode, "optimizer": recipe.optimizer,
        "micro_batch": recipe.micro_batch, "recompute": recipe.activation_checkpointing, "planned": step.fits,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        rail = bench.opened(preset, recipe, Path(folder))
        try:
            for _ in range(2):
                rail.accumulate(rows(recipe.micro_batch, length), 1 / length)
                rail.update(1e-4)
            row |= {"trained": True, "peak": rail.memory().peak}
        except OutOfMemory as error:
            row |= {"trained": False, "peak": None, "error": error.message}
        finally:
            rail.close()
    return row


def speed(bench: Bench) -> list[Result]:
    """Trained tokens a second: ours, and a plain loop of transformers and PEFT, each in lora and qlora."""
    length, found = bench.length(1024), []
    for preset in ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"):
        for mode in _ADAPTERS:
            recipe, _ = bench.plan(preset, length, mode=mode)
            found.append({"preset": preset, "mode": mode, "micro_batch": recipe.micro_batch, "length": length})
            found[-1]["ours"] = _rate_of_rail(bench, preset, recipe)
            found[-1]["transformers + peft"] = _rate_of_plain_loop(bench, preset, recipe)
    return found


def float8(bench: Bench) -> list[Result]:
    """`--fp8` against bfloat16, where the card has it."""
    length, found = bench.length(2048), []
    for preset in ("llama-3.2-3b", "llama-3.1-8b"):
        recipe, _ = bench.plan(preset, length, mode="lora")
        row: Result = {"preset": preset, "length": length, "bfloat16": _rate_of_rail(bench, preset, recipe)}
        if bench.dry or torch.cuda.get_device_capability() < (8, 9):
            row["float8"] = None
        else:
            row["float8"] = _rate_of_rail(bench, preset, replace(recipe, fp8=True))
        found.append(row)
    return found


def _rate_of_rail(bench: Bench, preset: str, recipe: Recipe) -> float | None:
    with tempfile.TemporaryDirectory() as folder:
        rail = bench.opened(preset, recipe, Path(folder))
        batch = rows(recipe.micro_batch, recipe.max_length)

        def step() -> None:
            rail.accumulate(batch, 1 / len(batch.tokens))
            rail.update(1e-4)

        try:
            return _rate(bench, step, int(np.sum(batch.trained)))
        except OutOfMemory:
            return None
        finally:
            rail.close()


def _rate_of_plain_loop(bench: Bench, preset: str, recipe: Recipe) -> float | None:
    """What one would write by hand: PEFT on all linears, SDPA, fused AdamW, the model's own loss over all logits."""
    device = torch.device("cpu" if bench.dry else "cuda")
    dtype = torch.float32 if bench.dry else torch.bfloat16
    from bp_cuda import quantized  # noqa: PLC0415 - only for its settings

    with tempfile.TemporaryDirectory() as folder:
        base = random_base(
            write_config(bench.config(preset), Path(folder)), dtype, device, quantized.config(recipe.mode, dtype)
        )
    if recipe.activation_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = get_peft_model(base, LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear"))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    batch = rows(recipe.micro_batch, recipe.max_length)
    ids = torch.as_tensor(batch.tokens.astype(np.int64), device=device).view(recipe.micro_batch, -1)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=not bench.dry):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    try:
        return _rate(bench, step, int(np.sum(batch.trained)))
    except torch.OutOfMemoryError:
        return None


def _rate(bench: Bench, step: Callable[[], None], trained_tokens: int) -> float:
    """Trained tokens a second, without the first steps."""
    for _ in range(_WARM_UP):
        step()
    if not bench.dry:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(_STEPS):
        step()
    if not bench.dry:
        torch.cuda.synchronize()
    return round(trained_tokens * _STEPS / (time.perf_counter() - began), 1)
