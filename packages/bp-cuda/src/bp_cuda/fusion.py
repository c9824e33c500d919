"""On opening a model for LoRA training: which of our own ways to compute it give the same, tried on two short rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from . import attention, fused_layers
from .chunked_loss import token_losses
from .lean_peft import LoraLayer, PeftModel

_LENGTHS = (7, 11)  # tokens of the rows that are tried
_MOVED = 0.02  # standard deviation of the B that are tried: a fresh adapter's are zero and would hide a mistake
# How far losses (nats, mean) and gradients (relative norm of the difference) may be off by rounding.
_LOSS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
_GRADIENT = {torch.float32: 1e-4, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Head:
    """The part of a model that makes hidden states, and the frozen weight that makes logits of them."""

    decoder: nn.Module
    weight: Tensor
    softcap: float | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Head | None:
        """None for a head that is trained, has a bias, or is no plain linear layer."""
        head, decoder = model.get_output_embeddings(), model.get_decoder()
        if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad or decoder is None:
            return None
        softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        return cls(decoder, head.weight, softcap)


@dataclass(frozen=True)
class _Row:
    """Two examples laid end to end, their positions, and the arguments that keep them apart."""

    tokens: Tensor
    positions: Tensor
    borders: dict[str, object]

    @property
    def targets(self) -> Tensor:
        """Each token but the first of the row is predicted, for a trial also across the border."""
        return torch.arange(1, len(self.tokens), device=self.tokens.device)


def fuse(model: PeftModel, computed: torch.dtype, *, separable: bool = True) -> Head | None:
    """Fuse the layers of a model with adapters, and return the head whose losses can be computed in chunks.

    Each is kept only if losses and gradients stay the same but for rounding. A model that is not `separable` cannot
    keep two examples in one row apart, and is tried with one.
    """
    base = model.get_base_model()
    row = _row(base, _LENGTHS if separable else _LENGTHS[:1])
    context = _products(base, computed)
    with _moved(model), _training(model):
        plain = _tried(model, row, None, context)
        fused, head = fused_layers.fuse(base), Head.of(base)
        if (fused or head) and _same(plain, _tried(model, row, head, context), base.dtype):
            return head
        # Which of the two it was.
        if fused and not _same(plain, _tried(model, row, None, context), base.dtype):
            fused_layers.undo(base)
        if head and not _same(plain, _tried(model, row, head, context), base.dtype):
            head = None
    return head


def losses(model: PreTrainedModel | PeftModel, head: Head | None, row: dict[str, Any], targets: Tensor) -> Tensor:
    """Cross-entropy of the tokens at `targets`, float32 [targets]; `row` is what a model's forward takes."""
    expected = row["input_ids"][0][targets]
    if head:
        hidden = head.decoder(**row).last_hidden_state[0]
        return token_losses(hidden[targets - 1], head.weight, expected, head.softcap)
    logits = model(**row, logits_to_keep=targets - 1).logits[0]
    if len(logits) != len(targets):  # Unsloth ignores logits_to_keep
        logits = logits[targets - 1]
    return cross_entropy(logits.float(), expected, reduction="none")


def _tried(
    model: PeftModel, row: _Row, head: Head | None, context: AbstractContextManager[object]
) -> tuple[Tensor, Tensor]:
    """The mean loss of the row, and the gradients of all trained parameters in one, float32."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    arguments = {"input_ids": row.tokens[None], "position_ids": row.positions[None], "use_cache": False, **row.borders}
    with torch.enable_grad():
        with context:
            loss = losses(model, head, arguments, row.targets).mean()
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    flat = [gradient.flatten() for gradient in gradients if gradient is not None]
    return loss.detach(), torch.cat(flat)


def _same(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], dtype: torch.dtype) -> bool:
    (loss, gradient), (other, theirs) = expected, found
    if gradient.shape != theirs.shape:
        return False
    off = (theirs - gradient).norm() / gradient.norm()
    return bool((other - loss).abs() <= _LOSS[dtype] and off <= _GRADIENT[dtype])


def _row(base: PreTrainedModel, lengths: tuple[int, ...]) -> _Row:
    size = min(base.config.get_text_config().vocab_size, 1000)
    tokens = [torch.arange(length, device=base.device) * 37 % size for length in lengths]
    positions = torch.cat([torch.arange(length, device=base.device) for length in lengths])
    implementation = base.config._attn_implementation
    return _Row(torch.cat(tokens), positions, attention.borders(implementation, lengths, base.device))


def _products(base: PreTrainedModel, computed: torch.dtype) -> AbstractContextManager[object]:
    if computed != torch.bfloat16:
        return nullcontext()
    return torch.autocast(base.device.type, torch.bfloat16)


@contextmanager
def _moved(model: PeftModel) -> Iterator[None]:
    """Give adapters that are zero something to add; afterwards all are what they were."""
    still = [pair.weight for pair in _second_factors(model) if not pair.weight.any()]
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in still:
            weight.copy_(torch.randn(weight.shape, generator=chance) * _MOVED)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight in still:
                weight.zero_()


@contextmanager
def _training(model: PeftModel) -> Iterator[None]:
    """As in training, but nothing is dropped by chance: bitsandbytes multiplies otherwise where it only reads."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = not isinstance(module, nn.Dropout)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _second_factors(model: PeftModel) -> Iterator[nn.Linear]:
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            yield from layer.lora_B.children()
