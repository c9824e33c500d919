"""Loading the model of a job: base, attention, kernels, adapter, sharding."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from transformers import PreTrainedModel

from bp_core.choices import QUANTIZED
from bp_core.errors import BackendUnavailable, ModelUnusable
from bp_core.process_group import launch_env
from bp_core.rail import Job
from bp_core.recipe import Recipe

from . import adapter as adapters
from . import attention, fsdp, fused_layers, fusion, quantized, requirements
from . import model as models
from .lean_peft import PeftModel

_ATTENTION = {
    attention.VARIABLE: "attention of all examples at once by torch's kernel",
    attention.FLASH: "attention of all examples at once by flash-attn",
    attention.NAME: "attention by torch, example by example",
    attention.EAGER: "attention by plain products",
}


@dataclass(frozen=True)
class LoadedModel:
    """`model` is the base, or the base with an adapter. Matrix products are in `computed`; `format` names the base's
    number format. A `separable` model can compute several examples in one row. With a `head`, losses are computed in
    chunks. `liger`: norms and MLPs are Liger's."""

    base: PreTrainedModel
    model: PreTrainedModel | PeftModel
    separable: bool
    computed: torch.dtype
    format: str
    head: fusion.Head | None = None
    liger: bool = False


def load(job: Job, device: torch.device, *, emulate_float8: bool = False) -> LoadedModel:
    """Load the model of `job`. Raises ModelUnusable, AdapterUnusable, PackageMissing, BackendUnavailable."""
    recipe = job.recipe
    if "unsloth" in sys.modules and not (recipe and recipe.unsloth):
        fix = "Do this in another process: the command line does, or start Python again."
        raise BackendUnavailable("Unsloth has changed transformers in this process, for its models only.", fix=fix)
    mode = recipe.mode if recipe else job.mode
    full = recipe is not None and mode == "full"
    dtype, computed = models.number_formats(job.dtype, device, full=full)
    shared = recipe is not None and (recipe.full_ft_offload or (recipe.shard and launch_env().size > 1))
    if shared and full:
        dtype = torch.float32
    base = _base(job, dtype, computed, torch.device("cpu") if shared else device)
    faster = attention.fastest(device, computed) if recipe and not recipe.unsloth else ()
    separable = models.isolate_examples(base, recipe.attention if recipe else "auto", faster)
    float8 = _kernels(base, recipe, emulate_float8)
    model = _trained(base, job)
    number_format = float8 or QUANTIZED.get(mode) or str(dtype).removeprefix("torch.")
    fusible = isinstance(model, PeftModel) and recipe is not None and not (shared or recipe.unsloth or recipe.liger)
    head = fusion.fuse(model, computed, separable=separable) if fusible else None
    liger = recipe is not None and (bool(recipe.liger) or _takes_liger(base, recipe, device))
    loaded = LoadedModel(base, model, separable, computed, number_format, head, liger)
    if recipe and shared:
        _shard(loaded, recipe, device)
    return loaded


def computed_by(loaded: LoadedModel) -> str:
    """What computes the model, in words; where something faster may be had, how to install it."""
    implementation = loaded.base.config._attn_implementation
    grouped = any(fused_layers.is_fused(module) for module in loaded.base.modules())
    may_have_liger = loaded.base.device.type == "cuda" and not grouped and not find_spec("liger_kernel")
    install = requirements.install("liger_kernel")
    chosen = [
        _ATTENTION.get(implementation, f"attention {implementation}"),
        "" if loaded.separable else "one example at a time",
        "layers in groups" if grouped else "",
        "norms and MLPs by Liger's kernels" if loaded.liger else "",
        f"norms and MLPs by PyTorch (Liger's may be faster: {install})" if may_have_liger else "",
        "losses in chunks" if loaded.head else "",
    ]
    return ", ".join(filter(None, chosen))


def _base(job: Job, dtype: torch.dtype, computed: torch.dtype, device: torch.device) -> PreTrainedModel:
    recipe = job.recipe
    if recipe and recipe.unsloth:
        model: PreTrainedModel = _optional("unsloth").load(job.model, recipe, dtype, device)
        return model
    mode = recipe.mode if recipe else job.mode
    base = models.load_base(job.model, dtype, device, quantized.config(mode, computed))
    quantized.settle(base)
    return base


def _kernels(base: PreTrainedModel, recipe: Recipe | None, emulate: bool) -> str | None:
    """Install the kernels that the recipe asks for; the name of the base's number format if they change it."""
    if recipe and recipe.liger and not models.change(base, partial(_optional("liger").patch, base)):
        message = f"Liger's kernels change what {type(base).__name__} says."
        raise ModelUnusable(message, fix="Leave --liger out.")
    if recipe is None or not recipe.fp8:
        return None
    _optional("float8").convert(base, emulate=emulate)
    return "float8"


def _takes_liger(base: PreTrainedModel, recipe: Recipe, device: torch.device) -> bool:
    """Whether Liger's kernels were put into a model that leaves them open: where a card and the package are there, and
    they give the same. Not into layers that are computed in groups, nor beside Unsloth or shards."""
    grouped = any(fused_layers.is_fused(module) for module in base.modules())
    if recipe.liger is not None or device.type != "cuda" or not find_spec("liger_kernel"):
        return False
    if grouped or recipe.unsloth or recipe.shared_out:
        return False
    with suppress(ModelUnusable):  # a family that it does not know
        return models.change(base, partial(_optional("liger").patch, base))
    return False


def _trained(base: PreTrainedModel, job: Job) -> PreTrainedModel | PeftModel:
    """The base with its new or existing adapter, or made trainable itself."""
    recipe = job.recipe
    if job.adapter:
        return adapters.read(base, job.adapter, trainable=recipe is not None)
    if recipe is None:
        return base
    if recipe.mode == "full":
        return base.requires_grad_(True)
    if recipe.unsloth:
        adapted: PeftModel = _optional("unsloth").adapt(base, recipe)
        return adapted
    return adapters.new(base, recipe, job.model)


def _shard(loaded: LoadedModel, recipe: Recipe, device: torch.device) -> None:
    """Shard the base over the processes, or between card and host. An adapter is small and stays whole in each."""
    if not loaded.separable and launch_env().size > 1:
        message = "its examples are computed one at a time, so that processes could not make equally many passes."
        raise ModelUnusable(message, where=type(loaded.base).__name__, fix="Leave shard and full_ft_offload out.")
    if recipe.mode == "full":
        whole, computed = [], loaded.computed
    else:
        whole, computed = [p for name, p in loaded.model.named_parameters() if "lora_" in name], None
    fsdp.shard(loaded.base, device, computed=computed, on_host=recipe.full_ft_offload, whole=whole)


def _optional(name: str) -> ModuleType:
    """A module of ours that imports an optional package."""
    return import_module(f".{name}", __package__)
