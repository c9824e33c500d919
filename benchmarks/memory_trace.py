"""What a real training step allocates, without a card and without computing it: our rail's own code on fake tensors.

Fake tensors have shapes and formats but no numbers, so the step of a 32-billion model runs here in seconds. Every
storage that PyTorch's dispatcher hands out is counted until it is let go, as a card's caching allocator would round it.
Why not hooks on saved tensors: they miss gradients and what is alive only while something is computed. Why not
torch.distributed's MemTracker: it counts the same storages, but by module, which makes it several times slower.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import PeftModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Module, Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from bp_core import step_sizes
from bp_core.examples import Batch
from bp_core.recipe import Recipe
from bp_cuda import adapter, attention, eight_bit, fused_layers, fusion, memory_saving, quantized, row_embedding
from bp_cuda import optimizer as optimizers
from bp_cuda.gradients import Gradients
from bp_cuda.rail import CpuRail

_FORMATS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "auto": torch.float32,
}  # auto: of a whole model, on the host
_BLOCK = 512  # what PyTorch's caching allocator rounds to, in bytes


class Ledger(TorchDispatchMode):
    """Bytes of all storages that were made inside and are still alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def elsewhere(self, make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """`make`, but what it makes is not counted: it is on the host."""

        def made(*given: Any, **named: Any) -> torch.Tensor:
            tensor = make(*given, **named)
            storage = tensor.untyped_storage()
            self.now -= self._sizes[storage._cdata]
            self._sizes[storage._cdata] = 0
            return tensor

        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = -(-storage.nbytes() // _BLOCK) * _BLOCK
            self.now += self._sizes[key]
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def trace(config: PreTrainedConfig, recipe: Recipe, lengths: list[int], *, card: bool, twice: bool) -> int:
    """The most bytes that tensors take while an optimizer step is made, its micro-batch holding such examples.

    `card`: as CUDA would do it, else as the host does. `twice`: two micro-batches to the step. All tokens but the first
    of an example are targets.
    """
    rail, ledger = CpuRail(), Ledger()
    with torch.device("meta"):
        rail.model = _model(config, recipe)
    batch = batch_of(lengths)
    with _without_numbers(card, recipe.dtype == "bfloat16"), FakeTensorMode(), ledger:
        _materialise(rail.model)
        rail.separable, rail.computed = True, torch.bfloat16 if recipe.dtype == "auto" else _FORMATS[recipe.dtype]
        if isinstance(rail.model, PeftModel):
            rail.head = _fused(rail.model.get_base_model())
        rail.model.train()
        rail.parameters = {name: p for name, p in rail.model.named_parameters() if p.requires_grad}
        if recipe.mode == "full":
            row_embedding.install(rail.model)
        with patch.object(eight_bit, "in_host_memory", ledger.elsewhere(eight_bit.in_host_memory)):
            rail.optimizer = optimizers.build(rail.parameters, recipe)
        rail.gradients = Gradients(rail.group, rail.parameters)
        if recipe.activation_checkpointing:
            memory_saving.recompute_layers(rail.model)
        for _ in range(1 + (recipe.mode == "full")):  # its first update makes room that the second step finds taken
            for _ in range(1 + twice):
                rail.accumulate(batch, 1.0)
            rail.update(1e-3)
    return ledger.peak


def _model(config: PreTrainedConfig, recipe: Recipe) -> PreTrainedModel | PeftModel:
    """The model as the rail opens it, on no device."""
    model = AutoModelForCausalLM.from_config(config, dtype=_FORMATS[recipe.dtype])
    model.requires_grad_(recipe.mode == "full")
    attention.register()
    model.set_attn_implementation(attention.APART[recipe.attention])
    if quantization := quantized.config(recipe.mode, _FORMATS[recipe.dtype]):
        replace_with_bnb_linear(model, ["lm_head"], quantization)
        model.is_loaded_in_4bit, model.is_loaded_in_8bit = quantization.load_in_4bit, quantization.load_in_8bit
    return model if recipe.mode == "full" else adapter.new(model, recipe)


def _fused(base: PreTrainedModel) -> fusion.Head | None:
    """What the rail does on opening, without the trial, which needs numbers."""
    fused_layers.fuse(base)
    return fusion.Head.of(base)


def batch_of(lengths: list[int]) -> Batch:
    """Examples of such lengths, all their tokens learned but the first."""
    trained = np.ones(sum(lengths), dtype=np.bool_)
    trained[np.cumsum([0, *lengths[:-1]])] = False
    return Batch(np.zeros(sum(lengths), dtype=np.int32), trained, np.array(lengths, dtype=np.int32))


def _materialise(model: Module) -> None:
    """Put fake tensors of the host in place of the meta tensors, the same one where layers share one."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for group in (module._parameters, module._buffers):
            for name, tensor in group.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = _like(module, name, tensor)
                    group[name] = made[id(tensor)]  # type: ignore[assignment]


def _like(module: Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name == "weight" and isinstance(module, Linear4bit | Linear8bitLt):
        return _quantised(module, tensor)
    new = torch.empty(tensor.shape, dtype=tensor.dtype)
    return Parameter(new, tensor.requires_grad) if isinstance(tensor, Parameter) else new


def _quantised(module: Linear4bit | Linear8bitLt, tensor: torch.Tensor) -> Parameter:
    """A weight as bitsandbytes keeps it."""
    rows, columns = tensor.shape
    if isinstance(module, Linear8bitLt):
        module.state.CB, module.state.SCB = torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows)
        module.state.threshold = 0.0  # which columns stand out depends on numbers
        return _marked(module.state.CB, CB=None, SCB=None)
    blocks = tensor.numel() // 64
    scales = QuantState(torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32)
    state = QuantState(
        torch.empty(blocks, dtype=torch.uint8), tensor.shape, torch.empty(16), 64, "nf4", module.compute_dtype,
        torch.empty(()), scales,
    )  # fmt: skip
    packed = torch.empty(tensor.numel() // 2, 1, dtype=torch.uint8)
    return _marked(packed, quant_state=state, bnb_quantized=True)


def _marked(tensor: torch.Tensor, **marks: Any) -> Parameter:
    """What bitsandbytes makes a class of its own of, which a fake tensor cannot be."""
    weight = Parameter(tensor, requires_grad=False)
    for name, value in marks.items():
        setattr(weight, name, value)
    return weight


@contextmanager
def _without_numbers(card: bool, half: bool) -> Iterator[None]:
    """Numbers that are asked for are 1; attention is the card's, if that is meant: flash for 16 bits."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.Tensor, "item", lambda tensor: 1.0))
        if card:
            kernel = _flash if half else _plain
            stack.enter_context(patch.object(attention, "scaled_dot_product_attention", kernel))
            stack.enter_context(patch.object(attention, "_is_in_blocks", lambda *_: False))
            for sizes in (step_sizes.LOGITS_CHUNK, step_sizes.LOGITS_PART):
                stack.enter_context(patch.dict(sizes, cpu=sizes["cuda"]))
        yield


def _flash(query: Any, key: Any, value: Any, *, dropout_p: float, is_causal: bool, scale: Any, enable_gqa: bool) -> Any:
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]


def _plain(query: Any, key: Any, value: Any, *, dropout_p: float, is_causal: bool, scale: Any, enable_gqa: bool) -> Any:
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(
            query, key, value, dropout_p=dropout_p, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
        )
